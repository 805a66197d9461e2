{%- if 'gateway_run' not in pillar %}{% include "gateway/map.jinja" %}{% endif %}
{%- set plan, sandbox = pillar.gateway_run.plan, pillar.gateway_run.sandbox %}

include:
  - gateway.valid

{%- if plan %}

routes file:
  gateway.file:
    - name: /etc/gateway/routes
    - source: salt://gateway/routes/files/routes.jinja
    - template: jinja

routes unit:
  gateway.file:
    - name: /etc/systemd/system/gateway-routes.service
    - source: salt://gateway/routes/files/gateway-routes.service.jinja
    - template: jinja
    - context:
        sandbox: {{ sandbox | tojson }}

routes to the peers' VPN subnets:
  gateway_network.routes:
    - routes: {{ (plan.routes + plan.inside_routes) | tojson }}
    - ways_back: {{ plan.ways_back | tojson }}

routes at boot:
  gateway_service.running:
    - name: gateway-routes
    - units: [gateway-routes.service]
    - require:
      - gateway: routes file
      - gateway: routes unit
      - gateway_network: routes to the peers' VPN subnets
{%- endif %}
