{#- Runs on each node what shall run only where the internal virtual IP is. #}
{%- if 'gateway_run' not in pillar %}{% include "gateway/map.jinja" %}{% endif %}
{%- set plan, sandbox = pillar.gateway_run.plan, pillar.gateway_run.sandbox %}

include:
  - gateway.valid

{%- if plan %}
{#- Whoever has a master tells it; not masterless, nor over salt-ssh. pip's and the onedir's are not always in PATH. #}
{%- set event = opts.get('file_client') != 'local' and '__master_opts__' not in opts %}
{%- set bin = grains.get('pythonexecutable', '').rpartition('/')[0] %}
{%- set config = opts.get('config_dir', '/etc/salt') %}
{%- set salt_call = event and (salt['cmd.which']('salt-call') or salt['cmd.which'](bin ~ '/salt-call')
                               or salt['cmd.which'](bin.rpartition('/')[0] ~ '/salt-call')) %}

follower of the virtual IP:
  gateway.file:
    - names:
      - /usr/lib/gateway/follow-decisions:
        - source: salt://gateway/follow/files/follow-decisions
      - /usr/lib/gateway/follow:
        - source: salt://gateway/follow/files/follow
      - /usr/lib/gateway/follow-tell:
        - source: salt://gateway/follow/files/follow-tell
    - mode: '0755'

virtual IP target:
  gateway.file:
    - name: /etc/systemd/system/gateway-virtual-ip.target
    - source: salt://gateway/follow/files/gateway-virtual-ip.target

units that follow the virtual IP:
  gateway_network.followers:
    - name: gateway-virtual-ip.target
    - units: {{ plan.follow.units | tojson }}
    - require:
      - gateway: virtual IP target

# Executables in it are the user's own.
folder for those who want to know the role:
  gateway.folder:
    - name: /etc/gateway/follow.d

unit that calls them:
  gateway.file:
    - name: /etc/systemd/system/gateway-follow-hooks.service
    - source: salt://gateway/follow/files/gateway-follow-hooks.service.jinja
    - template: jinja
    - context:
        sandbox: {{ sandbox | tojson }}
{%- if salt_call %}

unit that tells the Salt master:
  gateway.file:
    - name: /etc/systemd/system/gateway-follow-event.service
    - source: salt://gateway/follow/files/gateway-follow-event.service.jinja
    - template: jinja
    - context:
        sandbox: {{ sandbox | tojson }}
        command: {{ (salt_call ~ ' --config-dir=' ~ config) | tojson }}
        config: {{ config | tojson }}
{%- endif %}

follower unit:
  gateway.file:
    - name: /etc/systemd/system/gateway-follow.service
    - source: salt://gateway/follow/files/gateway-follow.service.jinja
    - template: jinja
    - context:
        sandbox: {{ sandbox | tojson }}
        event: {{ (salt_call and True or False) | tojson }}

follower service:
  gateway_service.running:
    - name: gateway-follow
    - reads:
      - /usr/lib/gateway/follow
      - /usr/lib/gateway/follow-decisions
      - /etc/systemd/system/gateway-follow.service
    - units:
      - gateway-virtual-ip.target
      - gateway-follow-hooks.service
{%- if salt_call %}
      - gateway-follow-event.service
{%- endif %}
    - require:
      - gateway: follower of the virtual IP
      - gateway: virtual IP target
      - gateway: unit that calls them
{%- if salt_call %}
      - gateway: unit that tells the Salt master
{%- endif %}
      - gateway: follower unit
{%- if not salt_call %}

# The follower starts it until it runs with other arguments.
nobody tells a Salt master:
  file.absent:
    - name: /etc/systemd/system/gateway-follow-event.service
    - require:
      - gateway_service: follower service
{%- endif %}
{%- endif %}
