# Removes configuration, rules, routes and services that are ours. Packages stay.
include:
  - gateway.keepalived.clean
  - gateway.health.clean
  - gateway.follow.clean
  - gateway.dnsmasq.clean
  - gateway.openvpn.clean
  - gateway.ntp.clean
  - gateway.conntrackd.clean
  - gateway.routes.clean
  - gateway.network.clean
  # Forwarding first, and the door last.
  - gateway.kernel.clean
  - gateway.firewall.clean

gateway folders are gone:
  gateway.folder_gone:
    - names:
      - /etc/gateway
      - /run/gateway
      - /usr/lib/gateway
      - /var/lib/gateway
    # The user's own executables are in them.
    - keep: [follow.d, health.d]
    - require:
      - sls: gateway.keepalived.clean
      - sls: gateway.health.clean
      - sls: gateway.follow.clean
      - sls: gateway.dnsmasq.clean
      - sls: gateway.openvpn.clean
      - sls: gateway.ntp.clean
      - sls: gateway.conntrackd.clean
      - sls: gateway.routes.clean
      - sls: gateway.network.clean
      - sls: gateway.kernel.clean
      - sls: gateway.firewall.clean
