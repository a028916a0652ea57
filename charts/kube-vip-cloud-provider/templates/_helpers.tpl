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

{{/* A value as text. Numbers of values files are floating point, and large ones would have an exponent. */}}
{{- define "provider.text" -}}
{{- if kindIs "float64" . }}{{ toJson . }}{{ else if not (kindIs "invalid" .) }}{{ toString . }}{{ end }}
{{- end }}

{{/* The value of a flag in extraArgs, as text, with its templates evaluated; empty if it is not there. */}}
{{- define "provider.flag" -}}
{{- tpl (include "provider.text" (get (.root.Values.extraArgs | default dict) .name)) .root }}
{{- end }}

{{/* Values of a release of the Go program's chart name its image: another program, with other rights. */}}
{{- define "provider.image" -}}
{{- $repository := .Values.image.repository }}
{{- $isGo := regexMatch "^((docker\\.io/)?(kubevip|plndr)|ghcr\\.io/kube-vip)/kube-vip-cloud-provider$" $repository }}
{{- if and $isGo (not (dig "rbac" "goProgram" false .Values.AsMap)) }}
{{- fail (printf "image.repository is %s, the image of the Go program: set it to localhost/kube-vip-cloud-provider, or where you pushed the image of this one" $repository) }}
{{- end }}
{{- printf "%s:%s" $repository (default .Chart.AppVersion (include "provider.text" .Values.image.tag)) }}
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
