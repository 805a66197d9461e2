include:
  - gateway.loaded

kernel settings are as they were:
  gateway_network.kernel_settings_restored:
    - name: /etc/sysctl.d/60-gateway.conf
    - forwarding_file: /etc/gateway/forwarding.conf

no kernel modules:
  file.absent:
    - name: /etc/modules-load.d/gateway.conf
    - require:
      - gateway_network: kernel settings are as they were
