{{- define "fairlead.labels" -}}
app.kubernetes.io/name: fairlead
app.kubernetes.io/part-of: fairlead
{{- end }}

{{- /* The image of a component: its own parts first, then those of `image`. */ -}}
{{- define "fairlead.image" -}}
{{- $own := .own | default dict -}}
{{- $all := .root.Values.image -}}
{{- if or $own.override $all.override -}}
{{- $own.override | default $all.override -}}
{{- else -}}
{{- $tag := $own.tag | default $all.tag | default .root.Chart.AppVersion -}}
{{- $digest := "" -}}
{{- if $own.useDigest }}{{ $digest = $own.digest }}{{ else if $all.useDigest }}{{ $digest = $all.digest }}{{ end -}}
{{- $own.repository | default $all.repository -}}:{{ $tag }}{{ with $digest }}@{{ . }}{{ end -}}
{{- end -}}
{{- end }}

{{- /* How pods on the host's network find the API server. */ -}}
{{- define "fairlead.apiServer" -}}
{{- with .Values.k8sServiceHost }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ . | quote }}
{{- end }}
{{- with .Values.k8sServicePort }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ . | quote }}
{{- end }}
{{- if .Values.debug.enabled }}
- name: FAIRLEAD_LOG
  value: debug
{{- end }}
{{- end }}
