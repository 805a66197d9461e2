{%- if 'gateway_run' not in pillar %}{% include "gateway/map.jinja" %}{% endif %}
{%- import_yaml "gateway/ntp/os.yaml" as families %}
{%- set os, plan, sandbox = families[grains.os_family], pillar.gateway_run.plan, pillar.gateway_run.sandbox %}

include:
  - gateway.valid
  - gateway.firewall
  - gateway.isolated

{%- if plan %}
{%- set provider = plan.ntp.provider %}
{%- set ntp = os[provider] %}

ntp package:
  pkg.installed:
    - pkgs: [{{ ntp.package }}]

ntp configuration as it was:
  gateway.original_kept:
    - name: {{ ntp.config }}
    - shipped: True
    - require:
      - pkg: ntp package
{%- if provider == 'ntpsec' %}

ntp configuration check:
  gateway.file:
    - name: {{ ntp.check }}
    - source: salt://gateway/ntp/files/check-ntpsec
    - mode: '0755'
    - require_in:
      - gateway: ntp configuration

# chrony's unit has such settings of the distribution's.
ntp unit settings:
  gateway.file:
    - name: {{ ntp.unit_settings }}
    - source: salt://gateway/ntp/files/ntpsec.unit.conf.jinja
    - template: jinja
    - context:
        sandbox: {{ sandbox | tojson }}
    - require_in:
      - gateway_service: ntp service
{%- endif %}

ntp configuration:
  gateway.checked_file:
    - name: {{ ntp.config }}
    - source: salt://gateway/ntp/files/{{ provider }}.conf.jinja
    - check: {{ ntp.check }}
    - require:
      - gateway: configuration checks change nothing
      - gateway: ntp configuration as it was

ntp service:
  gateway_service.running:
    - name: {{ ntp.service }}
    - reads:
      - {{ ntp.config }}
{%- if ntp.unit_settings is defined %}
      - {{ ntp.unit_settings }}
{%- endif %}
    - require:
      - gateway: ntp configuration
{%- for other in os if other != provider %}

# The distribution lets only one of them be installed.
{{ other }} configuration is as it was:
  gateway.original_restored:
    - name: {{ os[other].config }}
    - require:
      - gateway_service: ntp service
{%- if os[other].unit_settings is defined %}

no {{ other }} unit settings:
  gateway.drop_in_gone:
    - name: {{ os[other].unit_settings }}
    - require:
      - gateway_service: ntp service
{%- endif %}
{%- endfor %}
{%- endif %}
