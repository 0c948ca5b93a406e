// Package rules measures what the CRD's rules cost the API server, by the API server's own validator and nothing else of it: a
// creation, and a write of the status, at which every rule of the specification is asked as well.
//
// Allocations repeat exactly; times are the machine's. Run by `make bench-rules`, which names CRD and manifests.
package rules

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	v1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

type object = map[string]any

// loadSchema returns the schema in the file that $CRD names.
func loadSchema(b *testing.B) *schema.Structural {
	crd, internal := &v1.CustomResourceDefinition{}, &apiextensions.JSONSchemaProps{}
	content, err := os.ReadFile(os.Getenv("CRD"))
	require(b, err)
	require(b, yaml.Unmarshal(content, crd))
	served := crd.Spec.Versions[0].Schema.OpenAPIV3Schema
	require(b, v1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(served, internal, nil))
	structural, err := schema.NewStructural(internal)
	require(b, err)
	return structural
}

// loadManifest returns a manifest as the API server has it when it asks the rules: with defaults, and with integers.
func loadManifest(b *testing.B, path string, structural *schema.Structural) object {
	content, err := os.ReadFile(path)
	require(b, err)
	manifest := object{}
	require(b, yaml.Unmarshal(content, &manifest))
	defaulting.Default(manifest, structural)
	return convertIntegers(manifest).(object)
}

func convertIntegers(value any) any {
	switch value := value.(type) {
	case object:
		for name := range value {
			value[name] = convertIntegers(value[name])
		}
	case []any:
		for index := range value {
			value[index] = convertIntegers(value[index])
		}
	case float64:
		if value == float64(int64(value)) {
			return int64(value)
		}
	}
	return value
}

func require(b *testing.B, err error) {
	if err != nil {
		b.Fatal(err)
	}
}

// measure asks all rules about manifest, as if it came instead of old. $MANIFESTS has the files, separated as in $PATH.
func measure(b *testing.B, choose func(manifest object) (old any)) {
	structural := loadSchema(b)
	validator := cel.NewValidator(structural, true, celconfig.PerCallLimit)
	for _, path := range filepath.SplitList(os.Getenv("MANIFESTS")) {
		manifest := loadManifest(b, path, structural)
		old := choose(loadManifest(b, path, structural))
		b.Run(strings.TrimSuffix(filepath.Base(path), ".yaml"), func(b *testing.B) {
			b.ReportAllocs()
			left := int64(0)
			for b.Loop() {
				errs, rest := validator.Validate(context.Background(), nil, structural, manifest, old, celconfig.RuntimeCELCostBudget)
				if len(errs) > 0 {
					b.Fatal(errs)
				}
				left = rest
			}
			b.ReportMetric(float64(celconfig.RuntimeCELCostBudget-left), "CEL-units/op")
		})
	}
}

func BenchmarkCreation(b *testing.B) {
	measure(b, func(object) any { return nil })
}

func BenchmarkStatusWrite(b *testing.B) {
	measure(b, func(manifest object) any { return manifest })
}
