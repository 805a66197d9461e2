include:
  - gateway.loaded

health service is stopped:
  service.dead:
    - name: gateway-health
    - enable: False

health files are gone:
  file.absent:
    - names:
      - /etc/systemd/system/gateway-health.service
      - /etc/gateway/health.conf
      - /usr/lib/gateway/health
      - /usr/lib/gateway/announce
      - /var/lib/gateway/drained
      - /run/gateway/penalty
      - /run/gateway/health.json
      - /run/gateway/health
    - require:
      - service: health service is stopped
