{#- Watches on each node what has to work where the virtual IPs are, and tells keepalived. #}
{%- if 'gateway_run' not in pillar %}{% include "gateway/map.jinja" %}{% endif %}
{%- set plan, sandbox = pillar.gateway_run.plan, pillar.gateway_run.sandbox %}

include:
  - gateway.valid

{%- if plan %}

health scripts:
  gateway.file:
    - names:
      - /usr/lib/gateway/health-decisions:
        - source: salt://gateway/health/files/health-decisions
      - /usr/lib/gateway/health:
        - source: salt://gateway/health/files/health
      - /usr/lib/gateway/announce:
        - source: salt://gateway/health/files/announce
      - /usr/lib/gateway/ask-targets:
        - source: salt://gateway/health/files/ask-targets
    - mode: '0755'

health settings:
  gateway.file:
    - name: /etc/gateway/health.conf
    - source: salt://gateway/health/files/health.conf.jinja
    - template: jinja

# What is in it, is yours.
health checks folder:
  gateway.folder:
    - name: /etc/gateway/health.d

health unit:
  gateway.file:
    - name: /etc/systemd/system/gateway-health.service
    - source: salt://gateway/health/files/gateway-health.service.jinja
    - template: jinja
    - context:
        sandbox: {{ sandbox | tojson }}

health service:
  gateway_service.running:
    - name: gateway-health
    - reads:
      - /usr/lib/gateway/health
      - /usr/lib/gateway/health-decisions
      - /usr/lib/gateway/ask-targets
      - /etc/gateway/health.conf
      - /etc/systemd/system/gateway-health.service
    - require:
      - gateway: health checks folder
      - gateway: health scripts
      - gateway: health settings
      - gateway: health unit
{%- endif %}
