{%- if 'gateway_run' not in pillar %}{% include "gateway/map.jinja" %}{% endif %}
{%- set os = pillar.gateway_run.os %}
{%- set unit_settings = '/etc/systemd/system/' ~ os.conntrackd.service ~ '.service.d/gateway.conf' %}

include:
  - gateway.loaded

no state sync:
  gateway_service.off:
    - names:
      - gateway-sync
      - {{ os.conntrackd.service }}
    - ours: {{ unit_settings }}

conntrackd configuration as before:
  gateway.original_restored:
    - name: {{ os.conntrackd.config }}
    - require:
      - gateway_service: no state sync

state sync files are gone:
  file.absent:
    - names:
      - /etc/systemd/system/gateway-sync.service
      - /usr/lib/gateway/check-conntrackd
      - /usr/lib/gateway/sync
      - /run/gateway/sync.json
    - require:
      - gateway_service: no state sync

# Last: it says that there is something to clean.
conntrackd unit settings are gone:
  gateway.drop_in_gone:
    - name: {{ unit_settings }}
    - require:
      - gateway: conntrackd configuration as before
      - file: state sync files are gone
