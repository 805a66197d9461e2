# Removes configuration, rules, routes and services that are ours. Packages stay.
{%- import_yaml "gateway/services.yaml" as services %}

include:
{%- for service in services | reverse %}
  - gateway.{{ service }}.clean
{%- endfor %}

gateway folders are gone:
  gateway.folder_gone:
    - names:
      - /etc/gateway
      - /run/gateway
      - /usr/lib/gateway
      - /var/lib/gateway
    # The user's own executables are in them.
    - keep: [follow.d, health.d]
    - require:
{%- for service in services %}
      - sls: gateway.{{ service }}.clean
{%- endfor %}
