import java.io.InputStream;
import java.math.BigDecimal;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Comparator;
import org.apache.axis.configuration.XMLStringProvider;
import org.apache.axis.transport.http.SimpleAxisServer;
import peers.staff.Person;
import peers.staff.Report;
import peers.staff.Staff_PortType;

/**
 * The rpc/encoded service on Axis 1: {@code java AxisServer PORT} serves /axis/services/Staff. Axis
 * writes every object once and refers to it.
 */
public class AxisServer {
    public static void main(String[] arguments) throws Exception {
        SimpleAxisServer server = new SimpleAxisServer();
        try (InputStream deployment =
                AxisServer.class.getResourceAsStream("/peers/staff/deploy.wsdd")) {
            String generated = new String(deployment.readAllBytes(), StandardCharsets.UTF_8);
            server.setMyConfig(new XMLStringProvider(
                generated.replace("peers.staff.StaffImpl", Staff.class.getName())));
        }
        int port = Integer.parseInt(arguments[0]);
        server.setServerSocket(new ServerSocket(port, 50, InetAddress.getByName("127.0.0.1")));
        server.run();
    }

    public static class Staff implements Staff_PortType {
        @Override
        public Report report(String title, Person[] people) {
            Report report = new Report();
            report.setNames(
                Arrays.stream(people).map(Person::getName).toArray(String[]::new));
            report.setPayroll(
                Arrays.stream(people).map(Person::getPay).reduce(BigDecimal.ZERO, BigDecimal::add));
            report.setBytes(Arrays.stream(people).map(Person::getPhoto)
                .mapToInt(photo -> photo == null ? 0 : photo.length).sum());
            report.setOldest(
                Arrays.stream(people).min(Comparator.comparing(Person::getSince)).orElseThrow());
            report.setPeople(people);
            return report;
        }
    }
}
