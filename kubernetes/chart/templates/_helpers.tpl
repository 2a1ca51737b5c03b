{{- define "kiosk.edge" -}}{{ .Release.Name }}-edge{{- end -}}
{{- define "kiosk.nats" -}}{{ .Release.Name }}-nats{{- end -}}
{{- define "kiosk.edgeImage" -}}{{ .Values.edge.image | default (printf "ghcr.io/kiosk-shop/edge:%s" .Chart.AppVersion) }}{{- end -}}
{{- define "kiosk.natsHost" -}}{{ include "kiosk.nats" . }}.{{ .Release.Namespace }}:4222{{- end -}}
{{- define "kiosk.edgeSecret" -}}{{ .Values.secrets.edge | default (include "kiosk.edge" .) }}{{- end -}}
{{- define "kiosk.natsSecret" -}}{{ .Values.secrets.nats | default (include "kiosk.nats" .) }}{{- end -}}

{{/* Labels of an object: (list $ COMPONENT). */}}
{{- define "kiosk.labels" -}}
{{- $ := index . 0 -}}
{{ include "kiosk.selector" . }}
app.kubernetes.io/part-of: kiosk
app.kubernetes.io/managed-by: {{ $.Release.Service }}
helm.sh/chart: {{ $.Chart.Name }}-{{ $.Chart.Version }}
{{- end -}}

{{- define "kiosk.selector" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/instance: {{ $.Release.Name }}
{{- end -}}

{{/* What the restricted policy of pod security asks for, and a little more. */}}
{{- define "kiosk.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "kiosk.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Whether the edge makes the service account's tokens; empty: it does not. */}}
{{- define "kiosk.edgeMakesTokens" -}}
{{- if or .Values.edge.grpcTLS.clientCA (has (lower (toString .Values.edge.settings.GRPC_TRUST_NETWORK)) (list "true" "t" "1" "on" "yes")) }}yes{{ end -}}
{{- end -}}

{{/* The pods of OpenFaaS's gateway, as a NetworkPolicyPeer. */}}
{{- define "kiosk.gatewayPeer" -}}
namespaceSelector:
  matchLabels:
    kubernetes.io/metadata.name: {{ .Values.openfaas.namespace }}
podSelector:
  matchLabels: {{- toYaml .Values.openfaas.gatewayLabels | nindent 4 }}
{{- end -}}

{{- define "kiosk.gatewayPort" -}}
{{- $host := (urlParse .Values.openfaas.gatewayURL).host -}}
{{- if contains ":" $host }}{{ splitList ":" $host | last }}{{ else }}80{{ end -}}
{{- end -}}

{{/* An egress rule: (dict "to" PEERS "port" PORT). */}}
{{- define "kiosk.egress" -}}
- ports:
    - {protocol: TCP, port: {{ .port }}}
  {{- with .to }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "kiosk.egressDNS" -}}
- ports:
    - {protocol: UDP, port: {{ .port }}}
    - {protocol: TCP, port: {{ .port }}}
  {{- with .to }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
