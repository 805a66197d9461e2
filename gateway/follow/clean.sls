nothing follows the virtual IP:
  service.dead:
    - names:
      - gateway-follow
      - gateway-virtual-ip.target
    - enable: False

follower files are gone:
  file.absent:
    - names:
      - /etc/systemd/system/gateway-follow.service
      - /etc/systemd/system/gateway-virtual-ip.target
      - /etc/systemd/system/gateway-virtual-ip.target.wants
      - /usr/lib/gateway/follow
      - /run/gateway
    - require:
      - service: nothing follows the virtual IP
