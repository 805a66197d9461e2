include:
  - gateway.loaded

# Where they run now, they go on.
no unit follows the virtual IP:
  gateway_network.followers:
    - name: gateway-virtual-ip.target
    - units: []

nothing follows the virtual IP:
  gateway_service.off:
    - names:
      - gateway-follow
      - gateway-follow-hooks
      - gateway-follow-event
      - gateway-virtual-ip.target
    - require:
      - gateway_network: no unit follows the virtual IP

follower files are gone:
  file.absent:
    - names:
      - /etc/systemd/system/gateway-follow.service
      - /etc/systemd/system/gateway-follow-hooks.service
      - /etc/systemd/system/gateway-follow-event.service
      - /etc/systemd/system/gateway-virtual-ip.target
      - /etc/systemd/system/gateway-virtual-ip.target.wants
      - /usr/lib/gateway/follow
      - /usr/lib/gateway/follow-decisions
      - /usr/lib/gateway/follow-tell
      - /run/gateway/vrrp.fifo
      - /run/gateway/role
      - /run/gateway/hooks.asked
      - /run/gateway/hooks.told
      - /run/gateway/event.told
    - require:
      - gateway_service: nothing follows the virtual IP
