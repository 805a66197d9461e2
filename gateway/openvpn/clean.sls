{%- from "gateway/map.jinja" import os with context %}

include:
  - gateway.loaded

no openvpn servers of ours:
  gateway.openvpn_servers_only:
    - name: {{ os.openvpn.folder }}
    - service: {{ os.openvpn.service }}
    - instances: []

openvpn files are gone:
  file.absent:
    - name: /usr/lib/gateway/check-openvpn
