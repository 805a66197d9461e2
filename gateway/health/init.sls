{#- Watches on each node what has to work where the virtual IPs are, and tells keepalived. #}
{%- from "gateway/map.jinja" import plan, sandbox with context %}

include:
  - gateway.valid

{%- if plan %}

health scripts:
  file.managed:
    - names:
      - /usr/lib/gateway/health:
        - source: salt://gateway/health/files/health
      - /usr/lib/gateway/announce:
        - source: salt://gateway/health/files/announce
    - mode: '0755'
    - makedirs: True

health settings:
  file.managed:
    - name: /etc/gateway/health.conf
    - source: salt://gateway/health/files/health.conf.jinja
    - template: jinja
    - makedirs: True

# What is in it, is yours.
health checks folder:
  file.directory:
    - name: /etc/gateway/health.d
    - makedirs: True

health unit:
  file.managed:
    - name: /etc/systemd/system/gateway-health.service
    - source: salt://gateway/health/files/gateway-health.service.jinja
    - template: jinja
    - context:
        sandbox: {{ sandbox | tojson }}

health service:
  service.running:
    - name: gateway-health
    - enable: True
    - require:
      - file: health checks folder
    - watch:
      - file: health scripts
      - file: health settings
      - file: health unit
{%- endif %}
