{{- /*
Refuses Cilium's values that ask for what is not here. refused.yaml names them; what it does not name, values.schema.json refuses.
All of them at once: nobody wants to learn them one by one.
*/ -}}
{{- define "fairlead.check" -}}
{{- $refused := list -}}
{{- range $row := .Files.Get "refused.yaml" | fromYamlArray -}}
{{- $at := dict "value" $.Values "found" true -}}
{{- range $name := splitList "." $row.path -}}
{{- if and $at.found (kindIs "map" $at.value) (hasKey $at.value $name) -}}
{{- $_ := set $at "value" (index $at.value $name) -}}
{{- else -}}
{{- $_ := set $at "found" false -}}
{{- end -}}
{{- end -}}
{{- if $at.found -}}
{{- $passes := false -}}
{{- if hasKey $row "unless" -}}
{{- range $row.unless -}}
{{- if eq (toJson .) (toJson $at.value) -}}{{- $passes = true -}}{{- end -}}
{{- end -}}
{{- else -}}
{{- $passes = eq "off" (include "fairlead.state" $at.value) -}}
{{- end -}}
{{- if not $passes -}}
{{- $refused = append $refused (printf "%s: %s" (include "fairlead.named" (dict "path" $row.path "value" $at.value) | trimSuffix ", ") $row.remedy) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if ne .Values.loadBalancer.algorithm "maglev" -}}
{{- $refused = append $refused (printf "loadBalancer.algorithm=%s: every table here is a Maglev table: remove it" .Values.loadBalancer.algorithm) -}}
{{- end -}}
{{- if eq .Values.k8sServiceHost "auto" -}}
{{- $refused = append $refused "k8sServiceHost=auto: the API server is not looked for: set its address or name" -}}
{{- end -}}
{{- if and .Values.loadBalancer.dsrDispatch (ne .Values.loadBalancer.mode "dsr") -}}
{{- $refused = append $refused (printf "loadBalancer.dsrDispatch=%s: it says how mode dsr reaches backends: set loadBalancer.mode to dsr" .Values.loadBalancer.dsrDispatch) -}}
{{- end -}}
{{- if and (eq .Values.loadBalancer.mode "dsr") (not .Values.loadBalancer.dsrDispatch) -}}
{{- $refused = append $refused "loadBalancer.mode=dsr: Cilium's way opt does not exist here: set loadBalancer.dsrDispatch to ipip" -}}
{{- end -}}
{{- if and .Values.loadBalancer.mode (eq .Values.loadBalancer.acceleration "disabled") -}}
{{- $refused = append $refused (printf "loadBalancer.mode=%s: with acceleration disabled kube-proxy forwards, in its own way: set loadBalancer.acceleration to best-effort" .Values.loadBalancer.mode) -}}
{{- end -}}
{{- if $refused -}}
{{- fail (printf "Fairlead lacks what these values ask for:\n  %s\n" (join "\n  " $refused)) -}}
{{- end -}}
{{- end }}

{{- /* Whether a value asks for nothing: "off", or "on". */ -}}
{{- define "fairlead.state" -}}
{{- if not . -}}off
{{- else if not (kindIs "map" .) -}}on
{{- else if hasKey . "enabled" -}}{{ ternary "on" "off" (not (not .enabled)) }}
{{- else -}}
{{- $state := "off" -}}
{{- range $value := . -}}
{{- if eq "on" (include "fairlead.state" $value) -}}{{- $state = "on" -}}{{- end -}}
{{- end -}}
{{ $state }}
{{- end -}}
{{- end }}

{{- /* The values that ask for something, each with its whole path. */ -}}
{{- define "fairlead.named" -}}
{{- if kindIs "map" .value -}}
{{- $path := .path -}}
{{- range $name, $value := .value -}}
{{- if eq "on" (include "fairlead.state" $value) -}}
{{- include "fairlead.named" (dict "path" (printf "%s.%s" $path $name) "value" $value) -}}
{{- end -}}
{{- end -}}
{{- else -}}
{{ .path }}={{ kindIs "string" .value | ternary .value (toJson .value) }}, {{ end -}}
{{- end }}
