include:
  - gateway.loaded

systemd-networkd keeps nothing of ours:
  gateway_network.networkd:
    - name: /etc/systemd/networkd.conf.d/gateway.conf
    - interfaces: []
