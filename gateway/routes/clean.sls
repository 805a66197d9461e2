include:
  - gateway.loaded

# First: the follower puts back what is in it.
routes file is gone:
  file.absent:
    - name: /etc/gateway/routes

no routes of ours:
  gateway.routes:
    - routes: []
    - require:
      - file: routes file is gone

no routes at boot:
  gateway.service_off:
    - name: gateway-routes
    - require:
      - gateway: no routes of ours

routes unit is gone:
  file.absent:
    - name: /etc/systemd/system/gateway-routes.service
    - require:
      - gateway: no routes at boot
