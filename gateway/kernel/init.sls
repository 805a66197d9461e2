{%- if 'gateway_run' not in pillar %}{% include "gateway/map.jinja" %}{% endif %}
{%- set plan = pillar.gateway_run.plan %}

include:
  - gateway.valid
  # Nothing is forwarded without rules.
  - gateway.firewall

{%- if plan %}
{%- if plan.sync.enabled %}

# At boot the settings come before the firewall, which brings the module otherwise.
kernel modules:
  gateway.file:
    - name: /etc/modules-load.d/gateway.conf
    - contents: |
        # Managed by Salt (gateway).
        nf_conntrack
{%- else %}

no kernel modules:
  file.absent:
    - name: /etc/modules-load.d/gateway.conf
    - require:
      - gateway_network: kernel settings
{%- endif %}

# Forwarding is switched on at boot by the loader of the rules, when they are in force.
kernel settings:
  gateway_network.kernel_settings:
    - name: /etc/sysctl.d/60-gateway.conf
    - settings: {{ plan.kernel | tojson }}
    - forwarding_file: /etc/gateway/forwarding.conf
    - forwarding: {{ plan.forwarding | tojson }}
    - require:
      - sls: gateway.firewall
{%- endif %}
