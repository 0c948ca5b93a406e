// network-policies reads NetworkPolicies and attempts to connect from standard input, as one JSON object, and prints for each attempt, on a
// line of its own, whether the policies allow it. It judges as Cyclonus does, with which network plugins are tested for conformance.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/mattfenwick/cyclonus/pkg/matcher"
	networking "k8s.io/api/networking/v1"
)

type question struct {
	Policies []*networking.NetworkPolicy
	Attempts []*matcher.Traffic
}

func main() {
	var asked question
	decoder := json.NewDecoder(os.Stdin)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&asked); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	policies := matcher.BuildNetworkPolicies(true, asked.Policies)
	for _, attempt := range asked.Attempts {
		fmt.Println(policies.IsTrafficAllowed(attempt).IsAllowed())
	}
}
