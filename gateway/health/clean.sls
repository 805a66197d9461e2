include:
  - gateway.loaded

health service is stopped:
  gateway_service.off:
    - name: gateway-health

health files are gone:
  file.absent:
    - names:
      - /etc/systemd/system/gateway-health.service
      - /etc/gateway/health.conf
      - /usr/lib/gateway/health
      - /usr/lib/gateway/health-decisions
      - /usr/lib/gateway/announce
      - /usr/lib/gateway/ask-targets
      - /var/lib/gateway/drained
      - /run/gateway/penalty
      - /run/gateway/health.json
      - /run/gateway/health
    - require:
      - gateway_service: health service is stopped
