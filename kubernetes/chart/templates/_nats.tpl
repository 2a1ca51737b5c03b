{{/* nats.conf: the shop's account as on the box (faasd/box/etc/nats.conf); OpenFaaS brings a queue of its own here. */}}
{{- define "kiosk.natsConfig" -}}
server_name: $POD_NAME
listen: 0.0.0.0:4222
http: 0.0.0.0:8222
pid_file: /run/nats/nats.pid
lame_duck_grace_period: 5s
lame_duck_duration: 30s

jetstream {
  store_dir: /data
  max_file_store: {{ .Values.nats.maxFileStore }}
  max_memory_store: {{ .Values.nats.maxMemoryStore }}
  sync_interval: {{ .Values.nats.syncInterval }}
}
{{ if gt (int .Values.nats.replicas) 1 }}
cluster {
  name: {{ include "kiosk.nats" . }}
  listen: 0.0.0.0:6222
  authorization {user: route, password: $ROUTE_NATS_PASSWORD, timeout: 2}
  routes: $NATS_ROUTES
}
{{ end }}
accounts {
  KIOSK: {
    jetstream: enabled
    users: [
      {user: kiosk, password: $KIOSK_NATS_PASSWORD}
      {user: edge, password: $EDGE_NATS_PASSWORD, permissions: {publish: {deny: ">"}, subscribe: "product.changed"}}
    ]
  }
}
{{ end -}}
