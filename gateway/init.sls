{%- if 'gateway_run' not in pillar %}{% include "gateway/map.jinja" %}{% endif %}
{%- import_yaml "gateway/services.yaml" as services %}
{%- set plan = pillar.gateway_run.plan %}

include:
  - gateway.valid
{%- for service in services %}
  - gateway.{{ service }}
{%- endfor %}

{%- if plan %}

# After all others: what runs may have named it until now.
nothing of older versions:
  gateway.folder_only_ours:
    - name: /usr/lib/gateway
    - older: [/run/gateway/keepalived-beat]
    - require:
      - sls: gateway.isolated
      # What is not wanted may have nothing but its clean.sls.
{%- for service in services %}
      - sls: gateway.{{ service }}*
{%- endfor %}

# What `gateway.status` and a drain go by while the pillar is wrong, and compare it with otherwise.
# It has no secrets, but names what is behind the gateway; the templates' free `settings` are in it.
gateway plan that was applied:
  gateway.file:
    - name: /var/lib/gateway/applied
    - source: salt://gateway/files/applied.jinja
    - template: jinja
    - mode: '0600'
    # As long as the pillar is large, and what it means is in the diffs of all the others.
    - show_changes: False
    - require:
      - gateway: nothing of older versions
{%- endif %}
