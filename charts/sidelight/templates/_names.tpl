{{/* Names and labels. Every template takes the root of the chart's scope unless it says otherwise. */}}

{{/* Shortens what is too long for an object's name, and keeps it one of a kind. Takes text and limit. */}}
{{- define "sidelight.short" -}}
{{- if gt (len .text) (int .limit) -}}
{{- printf "%s-%s" (trunc (int (sub .limit 9)) .text | trimSuffix "-") (sha256sum .text | trunc 8) -}}
{{- else -}}
{{- .text -}}
{{- end -}}
{{- end -}}

{{- define "sidelight.name" -}}
{{- include "sidelight.short" (dict "text" (default .Chart.Name .Values.nameOverride) "limit" 52) -}}
{{- end -}}

{{/* 52: what CronJobs may have. Objects with a suffix are shortened again. */}}
{{- define "sidelight.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- /* A release may be called v1.2, a Service may not. */ -}}
{{- include "sidelight.short" (dict "text" (replace "." "-" $full) "limit" 52) -}}
{{- end -}}
{{- end -}}

{{/* Takes root and suffix. */}}
{{- define "sidelight.named" -}}
{{- include "sidelight.short" (dict "text" (printf "%s-%s" (include "sidelight.fullname" .root) .suffix) "limit" 52) -}}
{{- end -}}

{{- define "sidelight.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{- define "sidelight.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "sidelight.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* What a preview is called. A number from a values file is a float: 1234567 would be 1.234567e+06. */}}
{{- define "sidelight.previewId" -}}
{{- $id := .Values.preview.id -}}
{{- if kindIs "float64" $id -}}{{- int64 $id -}}{{- else -}}{{- $id -}}{{- end -}}
{{- end -}}

{{/* Labels that Pods are found by. They never change: a Deployment's selector cannot. Takes root and component. */}}
{{- define "sidelight.selectorLabels" -}}
app.kubernetes.io/name: {{ include "sidelight.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels of an object. Takes root and component. */}}
{{- define "sidelight.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "sidelight.selectorLabels" . }}
{{- with .root.Chart.AppVersion }}
app.kubernetes.io/version: {{ . | quote }}
{{- end }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- if eq .root.Values.mode "preview" }}
sidelight.dev/preview: {{ include "sidelight.previewId" .root | quote }}
{{- end }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Metadata of an object. Takes root; name (default: the full name), component (default: proxy), namespace, labels, annotations. */}}
{{- define "sidelight.metadata" -}}
{{- $labels := merge (dict) (default (dict) .labels) (include "sidelight.labels" (dict "root" .root "component" (default "proxy" .component)) | fromYaml) -}}
{{- $annotations := merge (dict) (default (dict) .annotations) .root.Values.commonAnnotations -}}
name: {{ default (include "sidelight.fullname" .root) .name }}
namespace: {{ default (include "sidelight.namespace" .root) .namespace }}
labels:
  {{- toYaml $labels | nindent 2 }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "sidelight.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* imagePullSecrets of a Pod: names, or objects with a name. */}}
{{- define "sidelight.imagePullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ if kindIs "map" . }}{{ .name }}{{ else }}{{ . }}{{ end }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Seconds of a time as the host file writes it: 500ms, 30s, 1m 30s. Rounded up. */}}
{{- define "sidelight.seconds" -}}
{{- $units := dict "ms" 1 "s" 1000 "sec" 1000 "secs" 1000 "second" 1000 "seconds" 1000 "m" 60000 "min" 60000 "mins" 60000 "minute" 60000 "minutes" 60000 "h" 3600000 "hr" 3600000 "hour" 3600000 "hours" 3600000 "d" 86400000 "day" 86400000 "days" 86400000 -}}
{{- $total := 0 -}}
{{- range regexFindAll "[0-9]+ *[a-z]+" (toString .) -1 -}}
{{- $unit := regexFind "[a-z]+" . -}}
{{- if not (hasKey $units $unit) -}}
{{- fail (printf "%q is no time: it is written 500ms, 30s, 2m." .) -}}
{{- end -}}
{{- $total = add $total (mul (regexFind "[0-9]+" . | int64) (get $units $unit)) -}}
{{- end -}}
{{- div (add $total 999) 1000 -}}
{{- end -}}

{{/* "true" if the cluster is at least of this version. Takes root and version ("1.30"). */}}
{{- define "sidelight.kube" -}}
{{- if semverCompare (printf ">=%s.0-0" .version) .root.Capabilities.KubeVersion.Version }}true{{ end -}}
{{- end -}}
