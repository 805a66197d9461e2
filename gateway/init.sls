{%- from "gateway/map.jinja" import plan with context %}

include:
  - gateway.valid
  # The door first, and forwarding only behind it.
  - gateway.firewall
  - gateway.kernel
  - gateway.network
  - gateway.routes
  - gateway.conntrackd
  - gateway.ntp
  - gateway.openvpn
  - gateway.dnsmasq
  - gateway.follow
  - gateway.health
  - gateway.keepalived

{%- if plan %}

# `gateway.status` compares it with the pillar's.
gateway digest of what was applied:
  gateway.file:
    - name: /var/lib/gateway/applied
    - contents: '{{ plan.digest }}'
    - require:
      - sls: gateway.firewall
      - sls: gateway.kernel
      - sls: gateway.network
      - sls: gateway.routes
      - sls: gateway.conntrackd
      - sls: gateway.ntp
      - sls: gateway.openvpn
      - sls: gateway.dnsmasq
      - sls: gateway.follow
      - sls: gateway.health
      - sls: gateway.keepalived
{%- endif %}
