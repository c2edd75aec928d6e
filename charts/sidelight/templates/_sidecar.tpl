{{/*
Sidelight as a native sidecar of another chart's Pods. That chart has this one as a dependency, with `mode: sidecar` (which makes the ConfigMap), and includes

  {{- $sidecar := include "sidelight.sidecar" (dict "context" $) | fromYaml }}
  metadata:
    labels:
      {{- toYaml $sidecar.labels | nindent 6 }}           # for metrics.podMonitor
    annotations:
      {{- toYaml $sidecar.annotations | nindent 6 }}      # with reload.mode restart, the checksum
  spec:
    initContainers:
      {{- toYaml $sidecar.initContainers | nindent 6 }}
    volumes:
      {{- toYaml $sidecar.volumes | nindent 6 }}

Takes context: the root of that chart's scope; name: what the dependency is called there (its alias; default: sidelight); values: put over the dependency's, for what
is about the container (resources, image, extraEnv, …): the ConfigMap is made of the dependency's own.

An init container with restartPolicy Always starts before the Pod's containers and ends after them, with what is left of the grace period: no preStop, and Jobs end.
*/}}
{{- define "sidelight.sidecar" -}}
{{- $name := default "sidelight" .name -}}
{{- $chart := get (default (dict) .context.Subcharts) $name -}}
{{- if not $chart -}}
{{- fail (printf "sidelight.sidecar: chart %s has no dependency called %q. Say its alias: (dict \"context\" $ \"name\" \"ALIAS\")." .context.Chart.Name $name) -}}
{{- end -}}
{{- if ne $chart.Values.mode "sidecar" -}}
{{- fail (printf "sidelight.sidecar: %s.mode is %q, so that a proxy of its own is deployed, too. Set %s.mode to sidecar." $name $chart.Values.mode $name) -}}
{{- end -}}
{{- $values := mustMergeOverwrite (deepCopy $chart.Values) (deepCopy (default (dict) .values)) -}}
{{- $scope := dict "Values" $values "Release" .context.Release "Chart" $chart.Chart "Capabilities" .context.Capabilities "Template" .context.Template "Files" $chart.Files -}}
{{- $annotations := dict -}}
{{- if eq $values.reload.mode "restart" -}}
{{- $_ := set $annotations (printf "checksum/%s" $name) (include "sidelight.files" $scope | sha256sum) -}}
{{- end -}}
labels:
  {{ include "sidelight.sidecarLabel" $scope }}
annotations:
  {{- toYaml $annotations | nindent 2 }}
initContainers:
  - restartPolicy: Always
    {{- include "sidelight.container" $scope | nindent 4 }}
volumes:
  {{- include "sidelight.volumes" $scope | nindent 2 }}
  {{- with $values.extraVolumes }}
  {{- tpl (toYaml .) $scope | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* What Pods with the sidecar are found by. */}}
{{- define "sidelight.sidecarLabel" -}}
sidecar.sidelight.dev/{{ include "sidelight.containerName" . }}: {{ include "sidelight.fullname" . }}
{{- end -}}
