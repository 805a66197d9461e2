include:
  - gateway.loaded

# First: it would put the rules back.
no firewall guard:
  gateway_service.off:
    - name: gateway-firewall-guard

no firewall rules of ours:
  gateway_firewall.loaded:
    - ruleset: {}
    - loader: salt://gateway/firewall/files/firewall
    - require:
      - gateway_service: no firewall guard

no firewall at boot:
  gateway_service.off:
    - name: gateway-firewall
    - require:
      - gateway_firewall: no firewall rules of ours

firewall files are gone:
  file.absent:
    - names:
      - /etc/systemd/system/gateway-firewall.service
      - /etc/systemd/system/gateway-firewall-guard.service
      - /var/lib/gateway/firewall
      - /usr/lib/gateway/firewall
      - /usr/lib/gateway/firewall-guard
      - /run/gateway/firewall.restored
      - /run/gateway/health/firewall
    - require:
      - gateway_service: no firewall at boot
