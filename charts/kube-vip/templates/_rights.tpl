{{/* The variables of each process, as a JSON list. */}}
{{- define "kube-vip.processes" -}}
{{- $env := include "kube-vip.env" . | fromJson }}
{{- if include "kube-vip.isSeparate" . }}
{{- $first := merge (dict "svc_enable" "false") $env }}
{{- /* Variables precede flags, which both processes have. */}}
{{- $off := dict "cp_enable" "false" "health_check_port" "0" }}
{{- $second := mergeOverwrite (omit $env "address") $off (dig "separate" "env" (dict) .Values.AsMap) }}
{{- list $first $second | toJson }}
{{- else }}
{{- list $env | toJson }}
{{- end }}
{{- end }}

{{/*
The rights of `kube-vip manifest rbac` with the same settings, as JSON: rules for all namespaces (wide), and by namespace. A test
compares them. own: the namespace of the pods, env: variables.
*/}}
{{- define "kube-vip.rights" -}}
{{- $env := .env }}
{{- $controlPlane := include "kube-vip.isOn" (dict "env" $env "key" "cp_enable") }}
{{- $services := include "kube-vip.isOn" (dict "env" $env "key" "svc_enable") }}
{{- $arp := include "kube-vip.isOn" (dict "env" $env "key" "vip_arp") }}
{{- $bgp := include "kube-vip.isOn" (dict "env" $env "key" "bgp_enable") }}
{{- $endpoints := include "kube-vip.isOn" (dict "env" $env "key" "enable_endpoints") }}
{{- $elected := and $controlPlane (or $arp (and $bgp (include "kube-vip.isOn" (dict "env" $env "key" "vip_leaderelection")))) }}
{{- $table := include "kube-vip.isOn" (dict "env" $env "key" "vip_routingtable") }}
{{- $one := or $arp (and $table (include "kube-vip.isOn" (dict "env" $env "key" "vip_leaderelection"))) }}
{{- $alone := or (not $one) (not (has (include "kube-vip.text" (get $env "svc_election_groups")) (list "" "0"))) }}
{{- range $key := list "svc_election" "svc_local_election" "per_service_election_on_demand" }}
{{- if include "kube-vip.isOn" (dict "env" $env "key" $key) }}{{- $alone = true }}{{- end }}
{{- end }}
{{- $text := include "kube-vip.text" (get $env "bgp_peers") }}
{{- $peers := list }}
{{- /* IPv6 addresses are in brackets, too. Peers that are texts have neither Secrets nor selectors. */}}
{{- if regexMatch "^\\s*\\[\\s*[{\"\\]]" $text }}
{{- range $peer := fromJsonArray $text }}{{- if kindIs "map" $peer }}{{- $peers = append $peers $peer }}{{- end }}{{- end }}
{{- end }}
{{- $ofNode := false }}
{{- range $key := list "annotation" "annotations" }}
{{- if include "kube-vip.text" (get $env $key) }}{{- $ofNode = true }}{{- end }}
{{- end }}
{{- range $peer := $peers }}{{- if get $peer "nodeSelector" }}{{- $ofNode = true }}{{- end }}{{- end }}
{{- $lease := include "kube-vip.lease" (dict "own" .own "text" (get $env "vip_leasename" | default "plndr-cp-lock")) | fromJson }}
{{- $common := include "kube-vip.lease" (dict "own" .own "text" (get $env "svc_leasename" | default "plndr-svcs-lock")) | fromJson }}
{{- $leases := dict "apiGroups" (list "coordination.k8s.io") "resources" (list "leases") }}
{{- $core := dict "apiGroups" (list "") }}
{{- /* Rules for all namespaces, and by namespace. */}}
{{- $wide := list }}
{{- $default := list
  (dict "apiGroups" (list "discovery.k8s.io") "resources" (list "endpointslices") "resourceNames" (list "kubernetes") "verbs" (list "watch"))
  (merge (dict "resources" (list "events") "verbs" (list "create" "patch")) $core) }}
{{- $namespaces := dict "default" $default }}
{{- if $elected }}
{{- $rules := list
  (merge (dict "verbs" (list "create")) $leases)
  (merge (dict "resourceNames" (list $lease.name) "verbs" (list "get" "update" "watch")) $leases) }}
{{- $_ := set $namespaces $lease.namespace (concat (get $namespaces $lease.namespace | default list) $rules) }}
{{- end }}
{{- if $services }}
{{- $slices := ternary (merge (dict "resources" (list "endpoints")) $core) (dict "apiGroups" (list "discovery.k8s.io") "resources" (list "endpointslices")) (ne $endpoints "") }}
{{- $wide = concat $wide (list
  (merge (dict "resources" (list "services" "nodes") "verbs" (list "list" "watch")) $core)
  (merge (dict "verbs" (list "list" "watch")) $slices)
  (dict "apiGroups" (list "networking.k8s.io") "resources" (list "servicecidrs") "verbs" (list "list" "watch"))
  (merge (dict "resources" (list "events") "verbs" (list "create" "patch")) $core)) }}
{{- if not (include "kube-vip.isOn" (dict "env" $env "key" "disable_service_updates")) }}
{{- $wide = append $wide (merge (dict "resources" (list "services/status") "verbs" (list "patch")) $core) }}
{{- end }}
{{- $_ := set $namespaces "kube-public" (list (merge (dict "resources" (list "configmaps") "resourceNames" (list "cluster-info") "verbs" (list "list" "watch")) $core)) }}
{{- if $alone }}
{{- $wide = append $wide (merge (dict "verbs" (list "create" "get" "list" "update" "watch")) $leases) }}
{{- else }}
{{- $rules := list (merge (dict "resourceNames" (list $lease.name) "verbs" (list "list" "watch")) $leases) }}
{{- $_ := set $namespaces $lease.namespace (concat (get $namespaces $lease.namespace | default list) $rules) }}
{{- $rules = list
  (merge (dict "verbs" (list "create" "list" "watch")) $leases)
  (merge (dict "resourceNames" (list $common.name) "verbs" (list "get" "update")) $leases) }}
{{- $_ := set $namespaces $common.namespace (concat (get $namespaces $common.namespace | default list) $rules) }}
{{- end }}
{{- end }}
{{- if include "kube-vip.isOn" (dict "env" $env "key" "enable_node_labeling") }}
{{- $wide = append $wide (merge (dict "resources" (list "nodes") "verbs" (list "get" "patch")) $core) }}
{{- end }}
{{- if $ofNode }}
{{- $wide = append $wide (merge (dict "resources" (list "nodes") "verbs" (list "list" "watch")) $core) }}
{{- end }}
{{- range $peer := $peers }}
{{- with get $peer "passwordSecret" }}
{{- $secret := splitn "/" 2 . }}
{{- $rule := merge (dict "resources" (list "secrets") "resourceNames" (list $secret._1) "verbs" (list "get")) $core }}
{{- $_ := set $namespaces $secret._0 (append (get $namespaces $secret._0 | default list) $rule) }}
{{- end }}
{{- end }}
{{- dict "wide" $wide "namespaces" $namespaces | toJson }}
{{- end }}
