{#- Runs on each node what shall run only where the internal virtual IP is. #}
{%- from "gateway/map.jinja" import plan with context %}

include:
  - gateway.valid

{%- if plan %}

follower of the virtual IP:
  file.managed:
    - name: /usr/lib/gateway/follow
    - source: salt://gateway/follow/files/follow
    - mode: '0755'
    - makedirs: True

virtual IP target:
  file.managed:
    - name: /etc/systemd/system/gateway-virtual-ip.target
    - source: salt://gateway/follow/files/gateway-virtual-ip.target

follower unit:
  file.managed:
    - name: /etc/systemd/system/gateway-follow.service
    - source: salt://gateway/follow/files/gateway-follow.service.jinja
    - template: jinja

follower service:
  service.running:
    - name: gateway-follow
    - enable: True
    - require:
      - file: virtual IP target
    - watch:
      - file: follower of the virtual IP
      - file: follower unit
{%- endif %}
