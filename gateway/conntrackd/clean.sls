{%- import_yaml "gateway/conntrackd/os.yaml" as families %}
{%- set os = families[grains.os_family] %}
{%- set unit_settings = '/etc/systemd/system/' ~ os.service ~ '.service.d/gateway.conf' %}

include:
  - gateway.loaded

no state sync:
  gateway_service.off:
    - names:
      - gateway-sync
      - {{ os.service }}
    - ours: {{ unit_settings }}

conntrackd configuration as before:
  gateway.original_restored:
    - name: {{ os.config }}
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
