// kstatus reads Kubernetes objects from standard input, one JSON object to a line, and prints for each the status that kstatus computes:
// what Flux, Argo CD's kin and `kubectl wait` of the cli-utils go by.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func main() {
	decoder := json.NewDecoder(os.Stdin)
	for {
		var text json.RawMessage
		if err := decoder.Decode(&text); err == io.EOF {
			return
		} else if err != nil {
			fail(err)
		}
		object := &unstructured.Unstructured{}
		// Its own reader: whole numbers stay whole.
		if err := object.UnmarshalJSON(text); err != nil {
			fail(err)
		}
		result, err := status.Compute(object)
		if err != nil {
			fail(err)
		}
		fmt.Println(result.Status)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
