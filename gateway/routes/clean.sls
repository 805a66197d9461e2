include:
  - gateway.loaded

# First: the follower puts back what is in it.
routes file is gone:
  file.absent:
    - name: /etc/gateway/routes

no routes of ours:
  gateway_network.routes:
    - routes: []
    - require:
      - file: routes file is gone

no routes at boot:
  gateway_service.off:
    - name: gateway-routes
    - require:
      - gateway_network: no routes of ours

routes unit is gone:
  file.absent:
    - name: /etc/systemd/system/gateway-routes.service
    - require:
      - gateway_service: no routes at boot
