// pause, the first process of a pod's sandbox and of the cluster's own process namespace.
module finetune.dev/devcluster/binaries/pause

go 1.25.0
