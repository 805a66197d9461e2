{#- What manages the interfaces must not take the virtual IPs and our routes for its own. #}
{%- from "gateway/map.jinja" import plan with context %}

include:
  - gateway.valid

{%- if plan %}

# In force when systemd-networkd starts the next time; until then it is left alone.
systemd-networkd keeps what is ours:
  gateway.networkd:
    - name: /etc/systemd/networkd.conf.d/gateway.conf
    - interfaces: {{ [plan.internal.interface, plan.public.interface] | tojson }}
{%- endif %}
