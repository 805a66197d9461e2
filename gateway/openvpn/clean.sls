{%- import_yaml "gateway/openvpn/os.yaml" as families %}
{%- set os = families[grains.os_family] %}

include:
  - gateway.loaded

no openvpn servers of ours:
  gateway_openvpn.servers_only:
    - name: {{ os.folder }}
    - service: {{ os.service }}
    - instances: []

no openvpn routes service:
  gateway_service.off:
    - name: gateway-vpn-routes

openvpn files are gone:
  file.absent:
    - names: {{ (os.files + os.routes_files) | tojson }}
    - require:
      - gateway_openvpn: no openvpn servers of ours
      - gateway_service: no openvpn routes service
