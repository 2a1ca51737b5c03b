{{/*
The value of a secret: (list $ NAMESPACE SECRET KEY GIVEN DEFAULT). It is GIVEN
or, where that is empty, what the cluster has, or DEFAULT. DEFAULT may be random:
one render uses the first value everywhere.
*/}}
{{- define "kiosk.secret" -}}
{{- $ := index . 0 -}}
{{- $given := trim (index . 4) -}}{{/* without a file's last line break */}}
{{- $id := printf "%s/%s/%s" (index . 1) (index . 2) (index . 3) -}}
{{- if not (hasKey $.Values "rendered") }}{{ $_ := set $.Values "rendered" dict }}{{ end -}}
{{- if not (hasKey $.Values.rendered $id) -}}
  {{- $value := $given -}}
  {{- if not $value -}}
    {{- $kept := lookup "v1" "Secret" (index . 1) (index . 2) -}}
    {{- $value = index . 5 -}}
    {{- if $kept }}{{ with index ($kept.data | default dict) (index . 3) }}{{ $value = b64dec . }}{{ end }}{{ end -}}
  {{- end -}}
  {{- $_ := set $.Values.rendered $id $value -}}
{{- end -}}
{{- get $.Values.rendered $id -}}
{{- end -}}

{{/* A password for a URL and for nats.conf: letters and digits, a letter first. */}}
{{- define "kiosk.random" -}}k{{ randAlphaNum 47 }}{{- end -}}

{{- define "kiosk.natsPassword" -}}
{{- include "kiosk.secret" (list (index . 0) (index . 0).Release.Namespace (include "kiosk.nats" (index . 0)) (index . 1) "" (include "kiosk.random" .)) -}}
{{- end -}}

{{/* The value of a secret of the functions: (list $ NAME). */}}
{{- define "kiosk.functionSecret" -}}
{{- $ := index . 0 -}}
{{- $name := index . 1 -}}
{{- $given := "" -}}
{{- $default := "" -}}
{{- if eq $name "nats-url" -}}
  {{- $given = printf "nats://kiosk:%s@%s" (include "kiosk.natsPassword" (list $ "kiosk-password")) (include "kiosk.natsHost" $) -}}
{{- else if eq $name "edge-secret" -}}
  {{- $default = include "kiosk.random" $ -}}
{{- else if eq $name "jwt-secret" -}}
  {{- $given = $.Values.secrets.jwtSecret -}}
  {{- $default = include "kiosk.random" $ -}}
{{- else if eq $name "admin-password" -}}
  {{- $given = $.Values.secrets.adminPassword -}}
  {{- $default = include "kiosk.random" $ -}}
{{- else if eq $name "mongo-uri" -}}
  {{- $given = $.Values.secrets.mongoURI -}}
{{- else if eq $name "redis-password" -}}
  {{- $given = $.Values.secrets.redisPassword -}}
{{- else if eq $name "smtp-password" -}}
  {{- $given = $.Values.secrets.smtpPassword -}}
{{- else -}}
  {{- fail (printf "the chart does not know the secret %s" $name) -}}
{{- end -}}
{{- include "kiosk.secret" (list $ $.Values.functions.namespace $name $name $given $default) -}}
{{- end -}}

{{/* The secrets of the functions that the chart makes, as JSON. */}}
{{- define "kiosk.functionSecrets" -}}
{{- $all := list "jwt-secret" "edge-secret" "mongo-uri" "nats-url" "redis-password" "admin-password" "smtp-password" -}}
{{- range .Values.secrets.existing }}{{ $all = without $all . }}{{ end -}}
{{- toJson $all -}}
{{- end -}}

{{/* The Secret of the edge: key and value. */}}
{{- define "kiosk.edgeSecretData" -}}
edge-secret: {{ include "kiosk.functionSecret" (list . "edge-secret") | b64enc }}
nats-url: {{ printf "nats://edge:%s@%s" (include "kiosk.natsPassword" (list . "edge-password")) (include "kiosk.natsHost" .) | b64enc }}
{{- if include "kiosk.edgeMakesTokens" . }}
jwt-secret: {{ include "kiosk.functionSecret" (list . "jwt-secret") | b64enc }}
{{- end }}
{{- end -}}

{{- define "kiosk.natsSecretData" -}}
{{- range $key := list "kiosk-password" "edge-password" "route-password" }}
{{ $key }}: {{ include "kiosk.natsPassword" (list $ $key) | b64enc }}
{{- end }}
{{- end -}}
