{{- define "kube-vip.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "kube-vip.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{/* A DaemonSet's selector cannot change: these are the labels of the Go program's chart. */}}
{{- define "kube-vip.selectorLabels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{- define "kube-vip.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "kube-vip.selectorLabels" (dict "root" . "name" (include "kube-vip.name" .)) }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Never `default`: the roles would be those of every pod without an account of its own. */}}
{{- define "kube-vip.serviceAccountName" -}}
{{- if and (eq (toString (.Values.serviceAccount).create) "false") (not (.Values.serviceAccount).name) }}
{{- fail "serviceAccount.create is false: set serviceAccount.name to an account that exists without this release, or serviceAccount.create to true" }}
{{- end }}
{{- default (include "kube-vip.name" .) (.Values.serviceAccount).name }}
{{- end }}

{{/* "true" while agents of the Go program run, and for their image. */}}
{{- define "kube-vip.isGoProgram" -}}
{{- if dig "rbac" "goProgram" false .Values.AsMap }}true{{ end }}
{{- end }}

{{/* Values of a release of the Go program's chart name its image: another program, with other rights. */}}
{{- define "kube-vip.image" -}}
{{- $repository := .Values.image.repository }}
{{- if and (not (include "kube-vip.isGoProgram" .)) (regexMatch "^((docker\\.io/)?plndr|ghcr\\.io/kube-vip)/kube-vip(-iptables)?$" $repository) }}
{{- fail (printf "image.repository is %s, the image of the Go program: set it to localhost/kube-vip, or where you pushed the image of this one" $repository) }}
{{- end }}
{{- $tag := include "kube-vip.text" .Values.image.tag }}
{{- printf "%s:%s" $repository (default .Chart.AppVersion $tag) }}
{{- end }}

{{/* A value as text. Numbers of values files are floating point, and large ones would have an exponent. */}}
{{- define "kube-vip.text" -}}
{{- if kindIs "float64" . }}{{ toJson . }}{{ else if not (kindIs "invalid" .) }}{{ toString . }}{{ end }}
{{- end }}

{{/* "true" if a setting is on in these variables. */}}
{{- define "kube-vip.isOn" -}}
{{- if has (get .env .key | toString | lower) (list "true" "1" "t") }}true{{ end }}
{{- end }}

{{/* Variables that older versions of the Go program had, as a JSON list: they have no effect. */}}
{{- define "kube-vip.former" -}}
{{- list "vip_cidr" "vip_addpeerstolb" "provider_config" "enable_endpointslices" "vip_packet" "vip_packetproject" "vip_packetprojectid" | toJson }}
{{- end }}

{{/*
Variables, as JSON: those of `env`, without what older versions of the Go program had, and what this version refuses beside
cp_enable (values of the Go program's chart switch the balancing of control-plane connections on). Flags precede the defaults of the
chart, which are variables, and sources of a variable precede its value.
*/}}
{{- define "kube-vip.env" -}}
{{- $env := deepCopy (.Values.env | default dict) }}
{{- range $name := include "kube-vip.former" . | fromJsonArray }}{{- $env = omit $env $name }}{{- end }}
{{- $flags := .Values.extraArgs | default dict }}
{{- range $flag, $name := dict "arp" "vip_arp" "controlplane" "cp_enable" "services" "svc_enable" "prometheusHTTPServer" "prometheus_server" "healthCheckPort" "health_check_port" }}
{{- if hasKey $flags $flag }}
{{- $value := get $flags $flag }}
{{- $_ := set $env $name (ternary "true" (tpl (include "kube-vip.text" $value) $) (kindIs "invalid" $value)) }}
{{- end }}
{{- end }}
{{- $sources := .Values.envValueFrom | default dict }}
{{- if include "kube-vip.isOn" (dict "env" $env "key" "cp_enable") }}
{{- $env = omit $env "lb_enable" "lb_port" "lb_fwdmethod" }}
{{- $elsewhere := or (get $env "address") (get $env "vip_address") (get $sources "address") (get $sources "vip_address") (get $flags "address") }}
{{- if or (.Values.config).address (not $elsewhere) }}
{{- $_ := set $env "address" (required "config.address is the control plane's VIP: set it, or switch the control plane off (env.cp_enable, or the flag extraArgs.controlplane, which precedes it)" (.Values.config).address) }}
{{- end }}
{{- end }}
{{- range $name, $source := $sources }}
{{- if $source }}{{- $env = omit $env $name }}{{- end }}
{{- end }}
{{- toJson $env }}
{{- end }}

{{/* The port of an address for metrics; empty on loopback. */}}
{{- define "kube-vip.metricsPort" -}}
{{- $address := include "kube-vip.text" . | default ":2112" }}
{{- if not (regexMatch "^(127\\.|localhost:|\\[::1\\])" $address) }}{{ regexFind "\\d+$" $address }}{{ end }}
{{- end }}

{{/* Whether there are two DaemonSets. With `helm upgrade --reuse-values` the defaults of this chart are missing. */}}
{{- define "kube-vip.isSeparate" -}}
{{- if (.Values.separate).enabled }}
{{- $env := include "kube-vip.env" . | fromJson }}
{{- range $key := list "cp_enable" "svc_enable" }}
{{- if not (include "kube-vip.isOn" (dict "env" $env "key" $key)) }}
{{- fail (printf "separate.enabled is for a control plane and Services: set env.%s to true" $key) }}
{{- end }}
{{- end }}true
{{- end }}
{{- end }}

{{/* A DaemonSet: root, name, env, affinity, nodeSelector, tolerations. */}}
{{- define "kube-vip.daemonset" -}}
{{- $root := .root }}
{{- $env := .env }}
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: {{ .name }}
  namespace: {{ include "kube-vip.namespace" $root }}
  labels:
    {{- include "kube-vip.labels" $root | nindent 4 }}
  {{- with $root.Values.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  selector:
    matchLabels:
      {{- include "kube-vip.selectorLabels" . | nindent 6 }}
  {{- with $root.Values.updateStrategy }}
  updateStrategy:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  template:
    metadata:
      labels:
        {{- include "kube-vip.selectorLabels" . | nindent 8 }}
        {{- with $root.Values.extraLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $root.Values.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      containers:
      - name: kube-vip
        image: {{ include "kube-vip.image" $root }}
        imagePullPolicy: {{ $root.Values.image.pullPolicy }}
        args:
        - manager
        {{- range $name, $value := $root.Values.extraArgs }}
        {{- if kindIs "invalid" $value }}
        - --{{ $name }}
        {{- else }}
        - {{ printf "--%s=%s" $name (tpl (include "kube-vip.text" $value) $root) | quote }}
        {{- end }}
        {{- end }}
        env:
        {{- /* A source precedes the value, but for what two processes cannot share. */}}
        {{- $sources := dict }}
        {{- range $name, $source := $root.Values.envValueFrom }}
        {{- if and $source (not (hasKey $env $name)) }}{{- $_ := set $sources $name $source }}{{- end }}
        {{- end }}
        {{- if not (or (hasKey $env "vip_nodename") (hasKey $sources "vip_nodename")) }}
        - name: vip_nodename
          valueFrom:
            fieldRef:
              fieldPath: spec.nodeName
        {{- end }}
        {{- range $name, $value := $env }}
        {{- if not (kindIs "invalid" $value) }}
        - name: {{ $name }}
          value: {{ include "kube-vip.text" $value | quote }}
        {{- end }}
        {{- end }}
        {{- range $name, $source := $sources }}
        - name: {{ $name }}
          valueFrom:
            {{- toYaml $source | nindent 12 }}
        {{- end }}
        {{- with $root.Values.envFrom }}
        envFrom:
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- if ($root.Values.podMonitor).enabled }}
        ports:
        - containerPort: {{ required "podMonitor.enabled needs metrics that other hosts reach: set env.prometheus_server to an address outside of loopback, such as :2112" (include "kube-vip.metricsPort" (get $env "prometheus_server")) }}
          name: monitoring
          protocol: TCP
        {{- end }}
        {{- $health := include "kube-vip.text" (get $env "health_check_port") }}
        {{- if not (has $health (list "" "0")) }}
        livenessProbe:
          httpGet:
            path: /healthz
            port: {{ $health | int }}
          initialDelaySeconds: 10
          periodSeconds: 10
          timeoutSeconds: 5
        {{- end }}
        resources:
          {{- toYaml $root.Values.resources | nindent 10 }}
        {{- $context := $root.Values.securityContext | default dict }}
        {{- if get $context "privileged" }}
        {{- $context = omit $context "allowPrivilegeEscalation" }}
        {{- end }}
        securityContext:
          {{- toYaml $context | nindent 10 }}
        {{- with $root.Values.volumeMounts }}
        volumeMounts:
          {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $root.Values.hostAliases }}
      hostAliases:
        {{- toYaml . | nindent 6 }}
      {{- end }}
      {{- with $root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 6 }}
      {{- end }}
      hostNetwork: true
      serviceAccountName: {{ include "kube-vip.serviceAccountName" $root }}
      {{- with $root.Values.podSecurityContext }}
      securityContext:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .tolerations }}
      tolerations:
        {{- toYaml . | nindent 6 }}
      {{- end }}
      {{- with .affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $root.Values.volumes }}
      volumes:
        {{- toYaml . | nindent 6 }}
      {{- end }}
      {{- with $root.Values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
{{- end }}

{{/* Namespace and name of a Lease given as `name` or `namespace/name`, as JSON. */}}
{{- define "kube-vip.lease" -}}
{{- $parts := splitn "/" 2 .text }}
{{- if contains "/" .text }}
{{- dict "namespace" $parts._0 "name" $parts._1 | toJson }}
{{- else }}
{{- dict "namespace" .own "name" .text | toJson }}
{{- end }}
{{- end }}
