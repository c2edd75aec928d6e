{{/* What cannot work is refused here, with what to do about it. Rendered with the ConfigMap, so in every mode. */}}
{{- define "sidelight.validate" -}}
{{- $v := .Values -}}
{{- $sources := include "sidelight.moduleSources" . | splitList " " | compact -}}

{{- /* The program. */ -}}
{{- if gt (len $sources) 1 -}}
{{- fail (printf "Several programs: %s. Set one of them; further programs belong into services." (join ", " $sources)) -}}
{{- end -}}
{{- if not (or $sources $v.services $v.previews.enabled (get $v.config "services") (get $v.config "services_dir")) -}}
{{- fail "No program. Set one of module.oci.repository, module.url, module.existingClaim.name, module.image.reference, module.configMap.name, module.inline or module.path; or services, or previews.enabled." -}}
{{- end -}}
{{- if and (not $sources) (or (include "sidelight.manifest" .) $v.program.settings) -}}
{{- fail "manifest and program.settings are about a program, and there is none. Set module.…; services name their manifest themselves (manifest: shop.toml, with the text in files)." -}}
{{- end -}}
{{- range list "module" "manifest" "poll" -}}
{{- if hasKey $v.program.settings . -}}
{{- fail (printf "program.settings.%s is not read: it is made of the values module and manifest." .) -}}
{{- end -}}
{{- end -}}
{{- with $v.module.oci -}}
{{- if and .repository (not .tag) (not .digest) -}}
{{- fail "module.oci needs a tag or, better, a digest: what was tested is then what runs." -}}
{{- end -}}
{{- if and .poll .digest -}}
{{- fail "module.oci.poll is for tags: a digest never moves. Leave one of the two empty." -}}
{{- end -}}
{{- end -}}
{{- if and $v.module.url (not $v.module.sha256) -}}
{{- fail "module.url needs module.sha256: what is there must be what was meant (sha256sum FILE)." -}}
{{- end -}}
{{- if and $v.module.sha256 (not $v.module.url) -}}
{{- fail "module.sha256 is about module.url, which is empty." -}}
{{- end -}}
{{- with $v.module.inline -}}
{{- $text := regexReplaceAll "\\s" . "" -}}
{{- if not (or (hasPrefix "AGFzb" $text) (hasPrefix "H4sI" $text)) -}}
{{- fail "module.inline is no base64 of a WebAssembly module or of a package.tar.gz: base64 -w0 main.wasm > main.b64, then --set-file module.inline=main.b64." -}}
{{- end -}}
{{- if gt (len $text) 400000 -}}
{{- fail (printf "module.inline is %d kB; at most 300 kB fit. Helm keeps every release in a Secret of 1 MiB, with the program in it twice. Publish the program (sidelight push main.wasm oci://REGISTRY/REPOSITORY:TAG) and set module.oci, or use module.url, module.image or module.existingClaim." (div (mul (len $text) 3) 4000)) -}}
{{- end -}}
{{- end -}}
{{- if and $v.module.image.reference (not $v.module.image.force) (not (include "sidelight.kube" (dict "root" . "version" "1.31"))) -}}
{{- fail (printf "module.image needs image volumes, which Kubernetes has from 1.31 on (this is %s). Use module.oci, or set module.image.force if you know better." .Capabilities.KubeVersion.Version) -}}
{{- end -}}

{{- /* The manifest, and files beside it. */ -}}
{{- $manifests := list -}}
{{- if $v.manifest.toml }}{{ $manifests = append $manifests "manifest.toml" }}{{ end -}}
{{- if $v.manifest.json }}{{ $manifests = append $manifests "manifest.json" }}{{ end -}}
{{- if $v.manifest.existingConfigMap }}{{ $manifests = append $manifests "manifest.existingConfigMap" }}{{ end -}}
{{- if gt (len $manifests) 1 -}}
{{- fail (printf "Several manifests: %s. Set one of them." (join ", " $manifests)) -}}
{{- end -}}
{{- range $name, $_ := $v.files -}}
{{- if has $name (list "sidelight.json" "fastly.toml" "fastly.json" "main.wasm") -}}
{{- fail (printf "files.%s: that name is taken. fastly.toml is manifest.toml, sidelight.json is config, main.wasm is module.inline." $name) -}}
{{- end -}}
{{- if not (regexMatch "^[-._a-zA-Z0-9]+$" $name) -}}
{{- fail (printf "files: %q cannot be a key of a ConfigMap, which has letters, digits, '-', '_' and '.'." $name) -}}
{{- end -}}
{{- end -}}
{{- if gt (len (include "sidelight.files" .)) 1000000 -}}
{{- fail "Host file, manifest and files take more than 1 MB, which no ConfigMap can have. Put large files into a volume (extraVolumes, extraVolumeMounts), or a KV store." -}}
{{- end -}}

{{- /* Modes. */ -}}
{{- if eq $v.mode "preview" -}}
{{- if eq (include "sidelight.previewId" .) "" -}}
{{- fail "mode preview needs preview.id: the pull request's number, say (--set preview.id=123)." -}}
{{- end -}}
{{- if not $v.preview.host -}}
{{- fail "mode preview needs preview.host: the name it is reached by (--set preview.host=pr-123.preview.example.com)." -}}
{{- end -}}
{{- if not (or $v.httpRoute.enabled $v.grpcRoute.enabled $v.ingress.enabled) -}}
{{- fail "Nothing leads to preview.host. Set httpRoute.enabled (with httpRoute.parentRefs) or ingress.enabled." -}}
{{- end -}}
{{- if ne (include "sidelight.namespace" .) .Release.Namespace -}}
{{- fail "A preview is in its release's namespace, where Helm's own record of it is: use --namespace, and leave namespaceOverride empty." -}}
{{- end -}}
{{- if and (eq $v.preview.delete "namespace") (or (eq .Release.Namespace "default") (hasPrefix "kube-" .Release.Namespace)) -}}
{{- fail (printf "preview.delete=namespace would delete the namespace %s with all that is in it. Install the preview into one of its own (--namespace pr-%s --create-namespace)." .Release.Namespace (include "sidelight.previewId" .)) -}}
{{- end -}}
{{- if or $v.autoscaling.enabled $v.keda.enabled (gt (int $v.replicas) 1) -}}
{{- fail "A preview has one replica: leave replicas, autoscaling and keda alone, or use mode deployment." -}}
{{- end -}}
{{- end -}}
{{- if and $v.previews.enabled (ne $v.mode "deployment") -}}
{{- fail (printf "previews.enabled is for mode deployment: shared Pods serve all previews (this is mode %s)." $v.mode) -}}
{{- end -}}
{{- if and $v.hostPort (ne $v.mode "daemonset") -}}
{{- fail "hostPort is for mode daemonset: in others, several Pods may want it on one node." -}}
{{- end -}}
{{- if eq $v.mode "sidecar" -}}
{{- $idle := list -}}
{{- range $name := list "ingress" "httpRoute" "grpcRoute" "networkPolicy" "autoscaling" "keda" "podDisruptionBudget" -}}
{{- if (get $v $name).enabled }}{{ $idle = append $idle (printf "%s.enabled" $name) }}{{ end -}}
{{- end -}}
{{- if $idle -}}
{{- fail (printf "mode sidecar makes no Pods: %s has nothing to be about. The chart that has the Pods has these objects." (join ", " $idle)) -}}
{{- end -}}
{{- end -}}

{{- /* State. */ -}}
{{- with $v.persistence -}}
{{- if and .enabled (eq .type "pvc") -}}
{{- if has $v.mode (list "daemonset" "sidecar") -}}
{{- fail (printf "persistence with a claim does not fit mode %s: one process has the files of KV stores. Use redis for state that Pods share, or persistence.type emptyDir." $v.mode) -}}
{{- end -}}
{{- if or (gt (int $v.replicas) 1) $v.autoscaling.enabled $v.keda.enabled -}}
{{- fail "persistence with a claim is for one replica: one process has the files of KV stores, and a ReadWriteOnce volume is on one node. Use redis for state that replicas share, persistence.type emptyDir, or replicas 1." -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range include "sidelight.redisUrls" . | splitList " " | compact -}}
{{- if not (regexMatch "^rediss?://" .) -}}
{{- fail "redis.url begins with redis:// or rediss://." -}}
{{- end -}}
{{- if regexMatch "^rediss?://[^/@]*:[^/]*@" . -}}
{{- fail "redis.url has a password in it, which would be in a ConfigMap for all to read. Put it into a Secret, and set redis.existingSecret (and redis.passwordKey)." -}}
{{- end -}}
{{- end -}}
{{- if and $v.redis.existingSecret (not $v.redis.url) -}}
{{- fail "redis.existingSecret has the password; redis.url is missing (redis://HOST:PORT)." -}}
{{- end -}}
{{- $paths := list -}}
{{- range $v.secrets -}}
{{- $path := default .name .path -}}
{{- if has $path $paths -}}
{{- fail (printf "secrets: two are mounted at /etc/sidelight-secrets/%s. Give one another path." $path) -}}
{{- end -}}
{{- $paths = append $paths $path -}}
{{- end -}}
{{- if ne (len $v.tls.secretNames) (len (uniq $v.tls.secretNames)) -}}
{{- fail "tls.secretNames: a name is there twice." -}}
{{- end -}}
{{- if and (not $v.tls.secretNames) (or $v.tls.clientCA.secretName $v.tls.clientCertificateRequired) -}}
{{- fail "tls.clientCA and tls.clientCertificateRequired are about HTTPS: tls.secretNames is empty." -}}
{{- end -}}

{{- /* Network, scaling, observability. */ -}}
{{- range $name := list "ingress" "httpRoute" "grpcRoute" -}}
{{- if and (get $v $name).enabled (not $v.service.enabled) -}}
{{- fail (printf "%s leads to the Service: set service.enabled." $name) -}}
{{- end -}}
{{- end -}}
{{- range $name := list "httpRoute" "grpcRoute" -}}
{{- if and (get $v $name).enabled (not (get $v $name).parentRefs) -}}
{{- fail (printf "%s.parentRefs is empty: name a Gateway (parentRefs: [{name: public, namespace: gateways}])." $name) -}}
{{- end -}}
{{- end -}}
{{- if and $v.ingress.enabled (not $v.ingress.hosts) (ne $v.mode "preview") -}}
{{- fail "ingress.hosts is empty: name a host, or \"\" for every host." -}}
{{- end -}}
{{- if and $v.autoscaling.enabled $v.keda.enabled -}}
{{- fail "autoscaling and keda would both set the number of replicas: enable one of them. KEDA's cpu and memory triggers do what autoscaling does." -}}
{{- end -}}
{{- if and (eq $v.mode "daemonset") (or $v.autoscaling.enabled $v.keda.enabled) -}}
{{- fail "A DaemonSet has a Pod on each node: autoscaling and keda are for mode deployment." -}}
{{- end -}}
{{- with $v.autoscaling -}}
{{- if .enabled -}}
{{- if not (or .cpu .memory .requestsInFlight .extraMetrics) -}}
{{- fail "autoscaling has no metric: set autoscaling.cpu, .memory, .requestsInFlight or .extraMetrics." -}}
{{- end -}}
{{- if gt (int .minReplicas) (int .maxReplicas) -}}
{{- fail "autoscaling.minReplicas is above autoscaling.maxReplicas." -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with $v.keda -}}
{{- if .enabled -}}
{{- if not (or .prometheus.serverAddress .triggers) -}}
{{- fail "keda has no trigger: set keda.prometheus.serverAddress or keda.triggers." -}}
{{- end -}}
{{- if gt (int .minReplicas) (int .maxReplicas) -}}
{{- fail "keda.minReplicas is above keda.maxReplicas." -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with $v.metrics -}}
{{- if and .serviceMonitor.enabled .podMonitor.enabled -}}
{{- fail "metrics.serviceMonitor and metrics.podMonitor would have every Pod scraped twice: enable one of them." -}}
{{- end -}}
{{- if and .serviceMonitor.enabled (or (not .service.enabled) (eq $v.mode "sidecar")) -}}
{{- fail "metrics.serviceMonitor needs metrics.service, which sidecars do not have. Use metrics.podMonitor." -}}
{{- end -}}
{{- if and .dashboards.enabled (not ($.Files.Glob "files/dashboard*.json")) -}}
{{- fail "metrics.dashboards: this chart was packaged without files/dashboard.json." -}}
{{- end -}}
{{- end -}}
{{- if ne $v.mode "sidecar" -}}
{{- $_ := include "sidelight.graceSeconds" . -}}
{{- end -}}
{{- end -}}
