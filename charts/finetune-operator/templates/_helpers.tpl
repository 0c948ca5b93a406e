{{- define "finetune.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "finetune.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "finetune.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "finetune.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Cluster-wide objects carry the namespace, so that two releases of one name do not fight over them. */}}
{{- define "finetune.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "finetune.fullname" .) }}
{{- end }}

{{- define "finetune.selectorLabels" -}}
app.kubernetes.io/name: {{ include "finetune.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "finetune.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "finetune.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: finetune-operator
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "finetune.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "finetune.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "finetune.tlsSecret" -}}
{{- printf "%s-tls" (include "finetune.fullname" . | trunc 59 | trimSuffix "-") }}
{{- end }}

{{/* An image reference, from a list of the image's values, its path among the values, the tag and the name it has by default, and the registry. */}}
{{- define "finetune.image" -}}
{{- $image := index . 0 -}}
{{- $registry := index . 4 | trimSuffix "/" -}}
{{- $repository := default (ternary (index . 3) "" (ne $registry "")) $image.repository -}}
{{- $repository = required (printf "%s.repository is not set: name the image that you built, for example --set %s.repository=registry.example.com/%s" (index . 1) (index . 1) (index . 3)) $repository -}}
{{- if $registry }}{{ $repository = printf "%s/%s" $registry $repository }}{{ end -}}
{{- if $image.digest }}{{ $repository }}@{{ $image.digest }}{{ else }}{{ $repository }}:{{ default (index . 2) $image.tag }}{{ end }}
{{- end }}

{{/* What the operator may do where FineTuneJobs live. It reads no Secret and enters no pod. */}}
{{- define "finetune.rules" -}}
- apiGroups: [finetune.dev]
  resources: [finetunesweeps]
  verbs: [get, list, watch]
# Created for the trials of a sweep, and patched to suspend them with it.
- apiGroups: [finetune.dev]
  resources: [finetunejobs]
  verbs: [get, list, watch, create, patch]
- apiGroups: [finetune.dev]
  resources: [finetunejobs/status, finetunesweeps/status]
  verbs: [get, patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
# The headless Service of a run of several pods; deleted with its owner.
- apiGroups: [""]
  resources: [services]
  verbs: [get, create]
{{- if .Values.gangScheduling.coscheduling.schedulerName }}
# The group that coscheduling places as a whole; deleted with its owner.
- apiGroups: [scheduling.x-k8s.io]
  resources: [podgroups]
  verbs: [get, create]
{{- end }}
{{- if .Values.kueue.enabled }}
# Kueue's verdicts are read; a run that its user suspends or resumes is taken out of its queue or put back, by `spec.active`.
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads]
  verbs: [get, list, watch, patch]
- apiGroups: [visibility.kueue.x-k8s.io]
  resources: [localqueues/pendingworkloads]
  verbs: [get]
{{- end }}
# Listed and watched for the Job controller's own words on why a pod could not be made.
- apiGroups: [""]
  resources: [events]
  verbs: [list, watch, create, patch]
{{- end }}
