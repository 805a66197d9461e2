{%- if 'gateway_run' not in pillar %}{% include "gateway/map.jinja" %}{% endif %}
{%- set os = pillar.gateway_run.os %}

include:
  - gateway.loaded

no openvpn servers of ours:
  gateway_openvpn.servers_only:
    - name: {{ os.openvpn.folder }}
    - service: {{ os.openvpn.service }}
    - instances: []

no openvpn routes service:
  gateway_service.off:
    - name: gateway-vpn-routes

openvpn files are gone:
  file.absent:
    - names: {{ (os.openvpn.files + os.openvpn.routes_files) | tojson }}
    - require:
      - gateway_openvpn: no openvpn servers of ours
      - gateway_service: no openvpn routes service
