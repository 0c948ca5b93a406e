// strict-decoder reads a stream of YAML objects from standard input and decodes those of the Prometheus operator and of Kueue into these
// projects' own Go types. A field that the type doesn't have is an error. It names the objects that it took, one to a line.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	kueue "sigs.k8s.io/kueue/apis/kueue/v1beta2"
	strict "sigs.k8s.io/yaml"
)

func newObject(apiVersion, kind string) any {
	switch apiVersion + " " + kind {
	case "monitoring.coreos.com/v1 ServiceMonitor":
		return &monitoring.ServiceMonitor{}
	case "monitoring.coreos.com/v1 PodMonitor":
		return &monitoring.PodMonitor{}
	case "monitoring.coreos.com/v1 PrometheusRule":
		return &monitoring.PrometheusRule{}
	case "kueue.x-k8s.io/v1beta2 ResourceFlavor":
		return &kueue.ResourceFlavor{}
	case "kueue.x-k8s.io/v1beta2 ClusterQueue":
		return &kueue.ClusterQueue{}
	case "kueue.x-k8s.io/v1beta2 LocalQueue":
		return &kueue.LocalQueue{}
	}
	return nil
}

func main() {
	reader := yaml.NewYAMLReader(bufio.NewReader(os.Stdin))
	for {
		document, err := reader.Read()
		if err == io.EOF {
			return
		} else if err != nil {
			fail(err)
		}
		var kind struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
		}
		if len(bytes.TrimSpace(document)) == 0 {
			continue
		}
		if err := strict.Unmarshal(document, &kind); err != nil {
			fail(err)
		}
		object := newObject(kind.APIVersion, kind.Kind)
		if object == nil {
			continue
		}
		if err := strict.UnmarshalStrict(document, object); err != nil {
			fail(fmt.Errorf("%s: %w", kind.Kind, err))
		}
		fmt.Println(kind.Kind)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
