{%- from "gateway/map.jinja" import os with context %}

include:
  - gateway.loaded

kernel settings are as they were:
  gateway.kernel_settings_restored:
    - name: /etc/sysctl.d/60-gateway.conf
    - forwarding_file: /etc/gateway/forwarding.conf

no kernel modules:
  file.absent:
    - name: /etc/modules-load.d/gateway.conf
    - require:
      - gateway: kernel settings are as they were
