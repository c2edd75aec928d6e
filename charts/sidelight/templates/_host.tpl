{{/* The host file, its services, and the files beside it. */}}

{{/* The sources of the program that are set, with blanks between. */}}
{{- define "sidelight.moduleSources" -}}
{{- with .Values.module -}}
{{- $set := list -}}
{{- if .oci.repository }}{{ $set = append $set "module.oci" }}{{ end -}}
{{- if .url }}{{ $set = append $set "module.url" }}{{ end -}}
{{- if .existingClaim.name }}{{ $set = append $set "module.existingClaim" }}{{ end -}}
{{- if .image.reference }}{{ $set = append $set "module.image" }}{{ end -}}
{{- if .configMap.name }}{{ $set = append $set "module.configMap" }}{{ end -}}
{{- if .inline }}{{ $set = append $set "module.inline" }}{{ end -}}
{{- if .path }}{{ $set = append $set "module.path" }}{{ end -}}
{{- join " " $set -}}
{{- end -}}
{{- end -}}

{{/* The program as the host file names it; nothing if there is none. */}}
{{- define "sidelight.module" -}}
{{- with .Values.module -}}
{{- if .oci.repository -}}
{{- if .oci.digest -}}
{{- printf "oci://%s@%s" .oci.repository .oci.digest -}}
{{- else -}}
{{- printf "oci://%s:%s" .oci.repository .oci.tag -}}
{{- end -}}
{{- else if .url -}}
{{- printf "%s#sha256=%s" .url .sha256 -}}
{{- else if .existingClaim.name -}}
{{- printf "/var/lib/sidelight-module/%s" (trimPrefix "/" .existingClaim.path) -}}
{{- else if .image.reference -}}
{{- printf "/var/lib/sidelight-module/%s" (trimPrefix "/" .image.path) -}}
{{- else if .configMap.name -}}
{{- printf "/var/lib/sidelight-module/%s" .configMap.key -}}
{{- else if .inline -}}
main.wasm
{{- else -}}
{{- .path -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The manifest's file beside the host file; nothing if there is none. */}}
{{- define "sidelight.manifest" -}}
{{- with .Values.manifest -}}
{{- if .toml -}}
fastly.toml
{{- else if .json -}}
fastly.json
{{- else if .existingConfigMap -}}
{{- .key -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What the program of this release is called. */}}
{{- define "sidelight.program" -}}
{{- if .Values.program.name -}}
{{- .Values.program.name -}}
{{- else if eq .Values.mode "preview" -}}
{{- include "sidelight.previewId" . -}}
{{- else -}}
{{- .Release.Name -}}
{{- end -}}
{{- end -}}

{{/* A host that something answers for; nothing if every host will do. */}}
{{- define "sidelight.someHost" -}}
{{- $v := .Values -}}
{{- $hosts := list -}}
{{- if $v.test.host -}}
{{- $hosts = list $v.test.host -}}
{{- else if $v.program.settings.hosts -}}
{{- $hosts = $v.program.settings.hosts -}}
{{- else if eq $v.mode "preview" -}}
{{- $hosts = list $v.preview.host -}}
{{- else if not (include "sidelight.module" .) -}}
{{- range $_, $service := $v.services -}}
{{- $hosts = concat $hosts (default (list) $service.hosts) -}}
{{- end -}}
{{- end -}}
{{- with $hosts -}}
{{- regexReplaceAll "^\\*\\." (first .) "any." -}}
{{- end -}}
{{- end -}}

{{- define "sidelight.tls" -}}
{{- if .Values.tls.secretNames }}true{{ end -}}
{{- end -}}

{{/* Addresses of Redis, with blanks between. */}}
{{- define "sidelight.redisUrls" -}}
{{- if kindIs "slice" .Values.redis.url -}}{{- join " " .Values.redis.url -}}{{- else -}}{{- .Values.redis.url -}}{{- end -}}
{{- end -}}

{{/* The host file as JSON. Never TOML: Helm's toToml writes every whole number with a point. */}}
{{- define "sidelight.host" -}}
{{- $v := .Values -}}
{{- $host := dict
      "listen" (list (printf "%s:%d" $v.listenAddress (int $v.ports.http)))
      "probes" (printf "%s:%d" $v.listenAddress (int $v.ports.probes))
      "cache_dir" "/var/cache/sidelight/programs"
      "drain_timeout" $v.drainTimeout
-}}
{{- if $v.admin.enabled -}}
{{- $_ := set $host "admin" (printf "127.0.0.1:%d" (int $v.admin.port)) -}}
{{- if $v.admin.tokenSecret.name -}}
{{- $_ := set $host "admin_token_file" (printf "/etc/sidelight-admin/%s" $v.admin.tokenSecret.key) -}}
{{- end -}}
{{- end -}}
{{- with $v.trustedProxies -}}
{{- $_ := set $host "trusted_proxies" . -}}
{{- end -}}
{{- if $v.module.oci.pullSecret -}}
{{- $_ := set $host "registry_auth" "/etc/sidelight-registry/.dockerconfigjson" -}}
{{- end -}}
{{- if $v.persistence.enabled -}}
{{- $_ := set $host "data_dir" "/var/lib/sidelight" -}}
{{- end -}}
{{- if $v.accessLog.enabled -}}
{{- /* What --access-log without fields has: in the file, so that a reload can change it. */ -}}
{{- $_ := set $host "access_log" (default (list "time" "client" "method" "host" "path" "status" "bytes" "duration_ms" "service" "request_id" "trace_id" "user_agent") $v.accessLog.fields) -}}
{{- end -}}
{{- if include "sidelight.tls" . -}}
{{- $certificates := list -}}
{{- range $v.tls.secretNames -}}
{{- $certificates = append $certificates (dict "certificate" (printf "/etc/sidelight-tls/%s/tls.crt" .) "key" (printf "/etc/sidelight-tls/%s/tls.key" .)) -}}
{{- end -}}
{{- $tls := dict "listen" (printf "%s:%d" $v.listenAddress (int $v.ports.https)) "certificates" $certificates -}}
{{- if $v.tls.clientCA.secretName -}}
{{- $_ := set $tls "client_ca" (printf "/etc/sidelight-client-ca/%s" $v.tls.clientCA.key) -}}
{{- end -}}
{{- if $v.tls.clientCertificateRequired -}}
{{- $_ := set $tls "client_certificate_required" true -}}
{{- end -}}
{{- $_ := set $host "tls" $tls -}}
{{- end -}}
{{- if $v.redis.url -}}
{{- $redis := dict "url" $v.redis.url -}}
{{- if $v.redis.existingSecret -}}
{{- $_ := set $redis "password_file" (printf "/etc/sidelight-redis/%s" $v.redis.passwordKey) -}}
{{- end -}}
{{- /* A preview that shares a server with staging is not to write staging's state. */ -}}
{{- $prefix := default (ternary (include "sidelight.fullname" .) "" (eq $v.mode "preview")) $v.redis.prefix -}}
{{- with $prefix -}}
{{- $_ := set $redis "prefix" . -}}
{{- end -}}
{{- $_ := set $host "redis" (mustMergeOverwrite $redis (deepCopy $v.redis.settings)) -}}
{{- end -}}
{{- if $v.traces.endpoint -}}
{{- $traces := dict "endpoint" $v.traces.endpoint "protocol" $v.traces.protocol "sample" $v.traces.sample -}}
{{- if $v.traces.authorizationSecret.name -}}
{{- $_ := set $traces "authorization_file" (printf "/etc/sidelight-otlp/%s" $v.traces.authorizationSecret.key) -}}
{{- end -}}
{{- $_ := set $host "traces" (mustMergeOverwrite $traces (deepCopy $v.traces.settings)) -}}
{{- end -}}
{{- if eq $v.mode "preview" -}}
{{- /* Fits the small limits of preview.resources. */ -}}
{{- $_ := set $host "cache" (dict "memory_mib" 64) -}}
{{- /* Each thread that compiles wants memory of its own. */ -}}
{{- $_ := set $host "threads" 2 -}}
{{- end -}}
{{- if $v.previews.enabled -}}
{{- $kubernetes := dict "services" true "delete_expired" $v.previews.deleteExpired -}}
{{- with $v.previews.namespace -}}
{{- $_ := set $kubernetes "namespace" . -}}
{{- end -}}
{{- $_ := set $host "kubernetes" $kubernetes -}}
{{- $_ := set $host "services_dir" "/run/sidelight/services" -}}
{{- with $v.previews.hosts -}}
{{- $_ := set $host "services_hosts" . -}}
{{- end -}}
{{- end -}}
{{- $services := deepCopy $v.services -}}
{{- $module := include "sidelight.module" . -}}
{{- if $module -}}
{{- $program := mustMergeOverwrite (deepCopy $v.program.settings) (dict "module" $module) -}}
{{- with include "sidelight.manifest" . -}}
{{- $_ := set $program "manifest" . -}}
{{- end -}}
{{- with $v.module.oci.poll -}}
{{- $_ := set $program "poll" . -}}
{{- end -}}
{{- $_ := set $services (include "sidelight.program" .) $program -}}
{{- end -}}
{{- if $services -}}
{{- $_ := set $host "services" $services -}}
{{- end -}}
{{- mustMergeOverwrite $host (deepCopy $v.config) | mustToPrettyJson -}}
{{- end -}}

{{/* Data of the ConfigMap: the host file, the manifest as it is, and what else is to be beside them. */}}
{{- define "sidelight.files" -}}
data:
  sidelight.json: |
    {{- include "sidelight.host" . | nindent 4 }}
  {{- /* toYaml writes text so that it comes out as it went in, whatever its line ends and blanks. */ -}}
  {{- with .Values.manifest.toml }}
  {{- dict "fastly.toml" . | toYaml | nindent 2 }}
  {{- end }}
  {{- with .Values.manifest.json }}
  fastly.json: |
    {{- mustToPrettyJson . | nindent 4 }}
  {{- end }}
  {{- with .Values.files }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.module.inline }}
binaryData:
  main.wasm: {{ regexReplaceAll "\\s" . "" | quote }}
{{- end }}
{{- end -}}

{{/* Seconds that requests in flight have at the end, as the host file has it after everything is put over it. */}}
{{- define "sidelight.drainSeconds" -}}
{{- include "sidelight.seconds" (get (include "sidelight.host" . | fromJson) "drain_timeout") -}}
{{- end -}}

{{/* Seconds of the preStop sleep: none where Kubernetes has no such action, and none in sidecars, which end after everything else in any case. */}}
{{- define "sidelight.sleepSeconds" -}}
{{- if and (ne .Values.mode "sidecar") (include "sidelight.kube" (dict "root" . "version" "1.30")) -}}
{{- int .Values.preStopSleepSeconds -}}
{{- else -}}
0
{{- end -}}
{{- end -}}

{{- define "sidelight.graceSeconds" -}}
{{- $least := add (include "sidelight.sleepSeconds" . | int) (include "sidelight.drainSeconds" . | int) -}}
{{- if .Values.terminationGracePeriodSeconds -}}
{{- $given := int .Values.terminationGracePeriodSeconds -}}
{{- if le $given (int $least) -}}
{{- fail (printf "terminationGracePeriodSeconds is %d, but the preStop sleep (%s s) and the drain timeout (%s s) alone take %d: requests would be cut off. Make it %d, or leave it empty." $given (include "sidelight.sleepSeconds" .) (include "sidelight.drainSeconds" .) $least (add $least 10)) -}}
{{- end -}}
{{- $given -}}
{{- else -}}
{{- add $least 10 -}}
{{- end -}}
{{- end -}}
