{{- define "provider.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "provider.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "provider.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{/* The value of a flag in extraArgs, as text; empty if it is not there. */}}
{{- define "provider.flag" -}}
{{- $value := get (.root.Values.extraArgs | default dict) .name }}
{{- if kindIs "float64" $value }}{{ toJson $value }}{{ else if not (kindIs "invalid" $value) }}{{ toString $value }}{{ end }}
{{- end }}

{{- define "provider.lease" -}}
{{- default (include "provider.fullname" .) (include "provider.flag" (dict "root" . "name" "leader-elect-resource-name")) }}
{{- end }}

{{- define "provider.leaseNamespace" -}}
{{- default (include "provider.namespace" .) (include "provider.flag" (dict "root" . "name" "leader-elect-resource-namespace")) }}
{{- end }}

{{- define "provider.configMap" -}}
{{- default (include "provider.name" .) .Values.configMapName }}
{{- end }}

{{/* A Deployment's selector cannot change: these are the labels of the Go program's chart. */}}
{{- define "provider.selectorLabels" -}}
app.kubernetes.io/name: {{ include "provider.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "provider.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "provider.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
