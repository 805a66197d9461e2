{%- from "gateway/map.jinja" import plan, sandbox with context %}

include:
  - gateway.valid

{%- if plan %}

routes file:
  file.managed:
    - name: /etc/gateway/routes
    - source: salt://gateway/routes/files/routes.jinja
    - template: jinja
    - makedirs: True

routes unit:
  file.managed:
    - name: /etc/systemd/system/gateway-routes.service
    - source: salt://gateway/routes/files/gateway-routes.service.jinja
    - template: jinja
    - context:
        sandbox: {{ sandbox | tojson }}

routes to the peers' VPN subnets:
  gateway.routes:
    - routes: {{ plan.routes | tojson }}

routes at boot:
  service.running:
    - name: gateway-routes
    - enable: True
    - require:
      - file: routes file
      - file: routes unit
      - gateway: routes to the peers' VPN subnets
{%- endif %}
