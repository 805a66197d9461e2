{%- from "gateway/map.jinja" import os with context %}

include:
  - gateway.loaded

no openvpn servers of ours:
  gateway.openvpn_servers_only:
    - name: {{ os.openvpn.folder }}
    - service: {{ os.openvpn.service }}
    - instances: []

no openvpn routes service:
  service.dead:
    - name: gateway-vpn-routes
    - enable: False
    # Test mode would announce a change of a service that was never there.
    - onlyif: test -e /etc/systemd/system/gateway-vpn-routes.service

openvpn files are gone:
  file.absent:
    - names: {{ (os.openvpn.files + os.openvpn.routes_files) | tojson }}
    - require:
      - gateway: no openvpn servers of ours
      - service: no openvpn routes service
