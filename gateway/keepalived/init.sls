{%- if 'gateway_run' not in pillar %}{% include "gateway/map.jinja" %}{% endif %}
{%- import_yaml "gateway/keepalived/os.yaml" as families %}
{%- set os, plan, sandbox = families[grains.os_family], pillar.gateway_run.plan, pillar.gateway_run.sandbox %}

include:
  - gateway.valid
  - gateway.firewall
  - gateway.isolated
  - gateway.follow
  - gateway.health

{%- if plan %}

keepalived package:
  pkg.installed:
    - pkgs: [{{ os.package }}]

keepalived unit settings:
  gateway.file:
    - name: /etc/systemd/system/{{ os.service }}.service.d/gateway.conf
    - source: salt://gateway/keepalived/files/unit.conf.jinja
    - template: jinja
    - context:
        sandbox: {{ sandbox | tojson }}

keepalived configuration as it was:
  gateway.original_kept:
    - name: {{ os.config }}

{%- if plan.vrrp.instances | length > 1 %}

# What has no public virtual IP yet gets it in two steps.
keepalived elections side by side:
  gateway_network.election_added:
    - name: {{ os.config }}
    - source: salt://gateway/keepalived/files/keepalived.conf.jinja
    - check: keepalived --config-test --use-file
    - service: {{ os.service }}
    - addresses: {{ plan.vrrp.instances | map(attribute='virtual_ip') | list | tojson }}
    - patience: {{ plan.health.takeover }}
    - require:
      - gateway: configuration checks change nothing
      - gateway_service: health service
      - gateway: keepalived unit settings
      - gateway: keepalived configuration as it was
    - require_in:
      - gateway: keepalived configuration
{%- endif %}

keepalived configuration:
  gateway.checked_file:
    - name: {{ os.config }}
    - source: salt://gateway/keepalived/files/keepalived.conf.jinja
    - check: keepalived --config-test --use-file
    - see_network: True
    - require:
      - gateway: configuration checks change nothing
      - pkg: keepalived package
      - gateway: keepalived configuration as it was
      - gateway: health scripts

keepalived service:
  gateway_service.running:
    - name: {{ os.service }}
    - rereads:
      - {{ os.config }}
      - /etc/systemd/system/{{ os.service }}.service.d/gateway.conf
    - require:
      - gateway_service: follower service
      - gateway_service: health service
      - gateway: keepalived unit settings
      - gateway: keepalived configuration
{%- endif %}
