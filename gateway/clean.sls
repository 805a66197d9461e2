# Removes configuration, rules, routes and services that are ours. Packages stay.
include:
  - gateway.keepalived.clean
  - gateway.health.clean
  - gateway.follow.clean
  - gateway.dnsmasq.clean
  - gateway.openvpn.clean
  - gateway.ntp.clean
  - gateway.routes.clean
  - gateway.firewall.clean
  - gateway.kernel.clean

gateway folders are gone:
  file.absent:
    - names:
      - /etc/gateway
      - /usr/lib/gateway
      - /var/lib/gateway
    - require:
      - sls: gateway.keepalived.clean
      - sls: gateway.health.clean
      - sls: gateway.follow.clean
      - sls: gateway.dnsmasq.clean
      - sls: gateway.openvpn.clean
      - sls: gateway.ntp.clean
      - sls: gateway.routes.clean
      - sls: gateway.firewall.clean
      - sls: gateway.kernel.clean
