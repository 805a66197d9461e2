{#- What manages the interfaces must not take the virtual IPs and our routes for its own. #}
{%- if 'gateway_run' not in pillar %}{% include "gateway/map.jinja" %}{% endif %}
{%- set plan = pillar.gateway_run.plan %}

include:
  - gateway.valid

{%- if plan %}

# In force when systemd-networkd starts the next time; until then it is left alone.
systemd-networkd keeps what is ours:
  gateway_network.networkd:
    - name: /etc/systemd/networkd.conf.d/gateway.conf
    - interfaces: {{ ([plan.internal.interface, plan.public.interface]
        + (plan.networks | map(attribute='interface') | list)) | tojson }}
{%- endif %}
