{{/* Pods: the container, its volumes, and what is around them. */}}

{{/* Its name; what its volumes' names begin with, too, so that a Pod may have two. */}}
{{- define "sidelight.containerName" -}}
{{- ternary .Values.sidecar.name "sidelight" (eq .Values.mode "sidecar") -}}
{{- end -}}

{{/* The name of a port. In sidecars with the container's name: the application is likely to have an "http" of its own. Takes root and port. */}}
{{- define "sidelight.portName" -}}
{{- if eq .root.Values.mode "sidecar" -}}
{{- printf "%s-%s" (trunc 9 (include "sidelight.containerName" .root) | trimSuffix "-") (trunc 5 .port) -}}
{{- else -}}
{{- .port -}}
{{- end -}}
{{- end -}}

{{/* Volumes of the container, without extraVolumes. */}}
{{- define "sidelight.volumes" -}}
{{- $v := .Values -}}
- name: {{ include "sidelight.containerName" . }}-config
  {{- /* A folder, never a subPath: those are not updated. */}}
  {{- if $v.manifest.existingConfigMap }}
  projected:
    sources:
      - configMap:
          name: {{ default (include "sidelight.fullname" .) .configMapName }}
      - configMap:
          name: {{ $v.manifest.existingConfigMap }}
  {{- else }}
  configMap:
    name: {{ default (include "sidelight.fullname" .) .configMapName }}
  {{- end }}
- name: {{ include "sidelight.containerName" . }}-cache
  emptyDir:
    sizeLimit: {{ $v.cache.sizeLimit }}
- name: {{ include "sidelight.containerName" . }}-tmp
  emptyDir:
    sizeLimit: {{ $v.tmp.sizeLimit }}
{{- if $v.previews.enabled }}
- name: {{ include "sidelight.containerName" . }}-services
  {{- /* Secrets of previews are among these files: in memory, never on the node's disk. */}}
  emptyDir:
    medium: Memory
    sizeLimit: {{ $v.previews.sizeLimit }}
{{- end }}
{{- if $v.persistence.enabled }}
- name: {{ include "sidelight.containerName" . }}-data
  {{- if or (eq $v.persistence.type "emptyDir") .withoutClaim }}
  emptyDir:
    sizeLimit: {{ $v.persistence.size }}
  {{- else }}
  persistentVolumeClaim:
    claimName: {{ default (include "sidelight.named" (dict "root" . "suffix" "data")) $v.persistence.existingClaim }}
  {{- end }}
{{- end }}
{{- with $v.module.existingClaim.name }}
- name: {{ include "sidelight.containerName" $ }}-module
  persistentVolumeClaim:
    claimName: {{ . }}
    readOnly: true
{{- end }}
{{- with $v.module.image }}
{{- if .reference }}
- name: {{ include "sidelight.containerName" $ }}-module
  image:
    reference: {{ .reference }}
    {{- with .pullPolicy }}
    pullPolicy: {{ . }}
    {{- end }}
{{- end }}
{{- end }}
{{- with $v.module.configMap }}
{{- if .name }}
- name: {{ include "sidelight.containerName" $ }}-module
  configMap:
    name: {{ .name }}
    items:
      - key: {{ .key | quote }}
        path: {{ .key | quote }}
{{- end }}
{{- end }}
{{- range include "sidelight.secretMounts" . | fromYamlArray }}
- name: {{ .volume }}
  secret:
    secretName: {{ .secret }}
    {{- if .optional }}
    optional: true
    {{- end }}
    {{- /* Read by whatever user the container has: there is only one. */}}
    defaultMode: 0444
    {{- with .items }}
    items:
      {{- toYaml . | nindent 6 }}
    {{- end }}
{{- end }}
{{- end -}}

{{/* Secrets that are mounted, as a list: volume, secret, path, items, optional. */}}
{{- define "sidelight.secretMounts" -}}
{{- $v := .Values -}}
{{- $prefix := include "sidelight.containerName" . -}}
{{- $mounts := list -}}
{{- with $v.module.oci.pullSecret -}}
{{- $mounts = append $mounts (dict "volume" (printf "%s-registry" $prefix) "secret" . "path" "/etc/sidelight-registry") -}}
{{- end -}}
{{- with $v.admin -}}
{{- if and .enabled .tokenSecret.name -}}
{{- $mounts = append $mounts (dict "volume" (printf "%s-admin" $prefix) "secret" .tokenSecret.name "path" "/etc/sidelight-admin" "items" (list (dict "key" .tokenSecret.key "path" .tokenSecret.key))) -}}
{{- end -}}
{{- end -}}
{{- with $v.redis -}}
{{- if and .url .existingSecret -}}
{{- $mounts = append $mounts (dict "volume" (printf "%s-redis" $prefix) "secret" .existingSecret "path" "/etc/sidelight-redis" "items" (list (dict "key" .passwordKey "path" .passwordKey))) -}}
{{- end -}}
{{- end -}}
{{- with $v.traces -}}
{{- if and .endpoint .authorizationSecret.name -}}
{{- $mounts = append $mounts (dict "volume" (printf "%s-otlp" $prefix) "secret" .authorizationSecret.name "path" "/etc/sidelight-otlp" "items" (list (dict "key" .authorizationSecret.key "path" .authorizationSecret.key))) -}}
{{- end -}}
{{- end -}}
{{- range $index, $name := $v.tls.secretNames -}}
{{- $mounts = append $mounts (dict "volume" (printf "%s-tls-%d" $prefix $index) "secret" $name "path" (printf "/etc/sidelight-tls/%s" $name)) -}}
{{- end -}}
{{- with $v.tls.clientCA -}}
{{- if .secretName -}}
{{- $mounts = append $mounts (dict "volume" (printf "%s-client-ca" $prefix) "secret" .secretName "path" "/etc/sidelight-client-ca" "items" (list (dict "key" .key "path" .key))) -}}
{{- end -}}
{{- end -}}
{{- range $index, $secret := $v.secrets -}}
{{- $mounts = append $mounts (dict "volume" (printf "%s-secret-%d" $prefix $index) "secret" $secret.name "path" (printf "/etc/sidelight-secrets/%s" (default $secret.name $secret.path)) "items" $secret.items "optional" $secret.optional) -}}
{{- end -}}
{{- toYaml $mounts -}}
{{- end -}}

{{/* Mounts of the container, without extraVolumeMounts. */}}
{{- define "sidelight.volumeMounts" -}}
{{- $v := .Values -}}
- name: {{ include "sidelight.containerName" . }}-config
  mountPath: /etc/sidelight
  readOnly: true
- name: {{ include "sidelight.containerName" . }}-cache
  mountPath: /var/cache/sidelight
- name: {{ include "sidelight.containerName" . }}-tmp
  mountPath: /tmp
{{- if $v.previews.enabled }}
- name: {{ include "sidelight.containerName" . }}-services
  mountPath: /run/sidelight
{{- end }}
{{- if $v.persistence.enabled }}
- name: {{ include "sidelight.containerName" . }}-data
  mountPath: /var/lib/sidelight
{{- end }}
{{- if or $v.module.existingClaim.name $v.module.image.reference $v.module.configMap.name }}
- name: {{ include "sidelight.containerName" . }}-module
  mountPath: /var/lib/sidelight-module
  readOnly: true
{{- end }}
{{- range include "sidelight.secretMounts" . | fromYamlArray }}
- name: {{ .volume }}
  mountPath: {{ .path }}
  readOnly: true
{{- end }}
{{- end -}}

{{/* Environment of the container. OTEL_RESOURCE_ATTRIBUTES refers to variables before it. */}}
{{- define "sidelight.env" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: POD_UID
  valueFrom:
    fieldRef:
      fieldPath: metadata.uid
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
{{- $attributes := list "k8s.pod.name=$(POD_NAME)" "k8s.pod.uid=$(POD_UID)" "k8s.namespace.name=$(POD_NAMESPACE)" "k8s.node.name=$(NODE_NAME)" (printf "k8s.container.name=%s" (include "sidelight.containerName" .)) }}
{{- range $name, $value := .Values.traces.resourceAttributes }}
{{- $attributes = append $attributes (printf "%s=%s" $name $value) }}
{{- end }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: {{ join "," $attributes | quote }}
{{- with .Values.logFilter }}
- name: RUST_LOG
  value: {{ . | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ tpl (toYaml .) $ }}
{{- end }}
{{- end -}}

{{/* A probe. Takes root, values and path. */}}
{{- define "sidelight.probe" -}}
httpGet:
  path: {{ .path }}
  port: {{ include "sidelight.portName" (dict "root" .root "port" "probes") }}
{{ toYaml (omit .values "enabled") }}
{{- end -}}

{{/* The container. */}}
{{- define "sidelight.container" -}}
{{- $v := .Values -}}
name: {{ include "sidelight.containerName" . }}
image: {{ include "sidelight.image" . | quote }}
{{- with $v.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
args:
  - serve
  - /etc/sidelight/sidelight.json
  - --log-format={{ $v.logFormat }}
  {{- with $v.extraArgs }}
  {{- tpl (toYaml .) $ | nindent 2 }}
  {{- end }}
terminationMessagePolicy: FallbackToLogsOnError
ports:
  - name: {{ include "sidelight.portName" (dict "root" . "port" "http") }}
    containerPort: {{ $v.ports.http }}
    protocol: TCP
    {{- if $v.hostPort }}
    hostPort: {{ $v.hostPort }}
    {{- end }}
  {{- if include "sidelight.tls" . }}
  - name: {{ include "sidelight.portName" (dict "root" . "port" "https") }}
    containerPort: {{ $v.ports.https }}
    protocol: TCP
  {{- end }}
  - name: {{ include "sidelight.portName" (dict "root" . "port" "probes") }}
    containerPort: {{ $v.ports.probes }}
    protocol: TCP
env:
  {{- include "sidelight.env" . | nindent 2 }}
{{- with $v.extraEnvFrom }}
envFrom:
  {{- tpl (toYaml .) $ | nindent 2 }}
{{- end }}
{{- if $v.startupProbe.enabled }}
startupProbe:
  {{- include "sidelight.probe" (dict "root" . "path" "/readyz" "values" $v.startupProbe) | nindent 2 }}
{{- end }}
{{- if $v.readinessProbe.enabled }}
readinessProbe:
  {{- include "sidelight.probe" (dict "root" . "path" "/readyz" "values" $v.readinessProbe) | nindent 2 }}
{{- end }}
{{- if $v.livenessProbe.enabled }}
livenessProbe:
  {{- include "sidelight.probe" (dict "root" . "path" "/livez" "values" $v.livenessProbe) | nindent 2 }}
{{- end }}
{{- with include "sidelight.sleepSeconds" . | int }}
lifecycle:
  preStop:
    sleep:
      seconds: {{ . }}
{{- end }}
{{- with ternary $v.preview.resources $v.resources (eq $v.mode "preview") }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts:
  {{- include "sidelight.volumeMounts" . | nindent 2 }}
  {{- with $v.extraVolumeMounts }}
  {{- tpl (toYaml .) $ | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Where a Pod runs. */}}
{{- define "sidelight.scheduling" -}}
{{- $v := .Values -}}
{{- with $v.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.affinity }}
affinity:
  {{- tpl (toYaml .) $ | nindent 2 }}
{{- end }}
{{- with $v.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $v.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* The Pod template of the Deployment and the DaemonSet. */}}
{{- define "sidelight.podTemplate" -}}
{{- $v := .Values -}}
{{- $labels := merge (dict) (tpl (toYaml $v.podLabels) . | fromYaml) (include "sidelight.labels" (dict "root" . "component" "proxy") | fromYaml) -}}
{{- $annotations := tpl (toYaml $v.podAnnotations) . | fromYaml -}}
{{- if eq $v.reload.mode "restart" -}}
{{- $_ := set $annotations "checksum/config" (include "sidelight.files" . | sha256sum) -}}
{{- end -}}
metadata:
  labels:
    {{- /* Not of the Pod: they change with every version of the chart, and all Pods would be replaced. */}}
    {{- omit $labels "helm.sh/chart" "app.kubernetes.io/managed-by" | toYaml | nindent 4 }}
  annotations:
    {{- merge (dict "kubectl.kubernetes.io/default-container" "sidelight") $annotations | toYaml | nindent 4 }}
spec:
  serviceAccountName: {{ include "sidelight.serviceAccountName" . }}
  {{- /* The only one who asks Kubernetes' API is a host with shared previews. */}}
  automountServiceAccountToken: {{ $v.previews.enabled }}
  {{- /* A Service named sidelight would set SIDELIGHT_… variables, which are ours. */}}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "sidelight.graceSeconds" . }}
  {{- with include "sidelight.imagePullSecrets" . | trim }}{{ nindent 2 . }}{{ end }}
  {{- with $v.podSecurityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.extraInitContainers }}
  initContainers:
    {{- tpl (toYaml .) $ | nindent 4 }}
  {{- end }}
  containers:
    - {{ include "sidelight.container" . | nindent 6 | trim }}
    {{- with $v.extraContainers }}
    {{- tpl (toYaml .) $ | nindent 4 }}
    {{- end }}
  volumes:
    {{- include "sidelight.volumes" . | nindent 4 }}
    {{- with $v.extraVolumes }}
    {{- tpl (toYaml .) $ | nindent 4 }}
    {{- end }}
  {{- with include "sidelight.scheduling" . | trim }}{{ nindent 2 . }}{{ end }}
  {{- with $v.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- range tpl (toYaml .) $ | fromYamlArray }}
    {{- $selector := dict "matchLabels" (include "sidelight.selectorLabels" (dict "root" $ "component" "proxy") | fromYaml) }}
    - {{ merge (dict) . (dict "labelSelector" $selector) | toYaml | nindent 6 | trim }}
    {{- end }}
  {{- end }}
  {{- with $v.hostAliases }}
  hostAliases:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.dnsPolicy }}
  dnsPolicy: {{ . }}
  {{- end }}
  {{- with $v.dnsConfig }}
  dnsConfig:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
