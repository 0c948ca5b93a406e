// probe, the program in the pods of the cluster's own tests: see main.go.
module finetune.dev/devcluster/binaries/probe

go 1.25.0
