{%- from "gateway/map.jinja" import os, plan, sandbox with context %}

include:
  - gateway.valid
  - gateway.firewall
  - gateway.follow
  - gateway.health

{%- if plan %}

keepalived package:
  pkg.installed:
    - name: {{ os.keepalived.package }}

keepalived unit settings:
  file.managed:
    - name: /etc/systemd/system/{{ os.keepalived.service }}.service.d/gateway.conf
    - source: salt://gateway/keepalived/files/unit.conf.jinja
    - template: jinja
    - makedirs: True
    - context:
        sandbox: {{ sandbox | tojson }}

# Of a folder of settings that is new, neither systemd nor Salt says that it has to be read.
keepalived unit settings are read:
  cmd.run:
    - name: systemctl daemon-reload && systemctl show -P DropInPaths {{ os.keepalived.service }}
    - unless: systemctl show -P DropInPaths {{ os.keepalived.service }} | grep -q /gateway.conf
    - require:
      - file: keepalived unit settings

keepalived configuration as it was:
  gateway.original_kept:
    - name: {{ os.keepalived.config }}

keepalived configuration:
  gateway.checked_file:
    - name: {{ os.keepalived.config }}
    - source: salt://gateway/keepalived/files/keepalived.conf.jinja
    - check: keepalived --config-test --use-file
    - require:
      - pkg: keepalived package
      - gateway: keepalived configuration as it was
      - file: health scripts

keepalived service:
  service.running:
    - name: {{ os.keepalived.service }}
    - enable: True
    - reload: True
    - require:
      - service: follower service
      - service: health service
      - cmd: keepalived unit settings are read
    - watch:
      - file: keepalived unit settings
      - gateway: keepalived configuration
{%- endif %}
