"""``python -m deploy.grafana``: write the dashboards."""

from deploy.grafana import write

if __name__ == "__main__":
    for path in write():
        print(path)
