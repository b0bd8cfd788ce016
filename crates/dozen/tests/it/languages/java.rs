//! Java: Maven's own plugins from a real repository.

use super::{place, tree};

const POM: &str = r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>org.example</groupId>
  <artifactId>shop</artifactId>
  <version>1.0</version>
  <properties>
    <maven.compiler.source>11</maven.compiler.source>
    <maven.compiler.target>11</maven.compiler.target>
    <project.build.sourceEncoding>UTF-8</project.build.sourceEncoding>
  </properties>
  <build>
    <plugins>
      <plugin>
        <artifactId>maven-jar-plugin</artifactId>
        <configuration><archive><manifest><mainClass>Shop</mainClass></manifest></archive></configuration>
      </plugin>
    </plugins>
  </build>
</project>
"#;
const SHOP: &str = r#"import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;

public class Shop {
    public static void main(String[] args) throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress(Integer.parseInt(System.getenv("PORT"))), 0);
        server.createContext("/", exchange -> {
            byte[] body = "hello".getBytes();
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.start();
    }
}
"#;

#[test]
fn an_app_is_built_and_answers() {
    let files = [("pom.xml", POM), ("src/main/java/Shop.java", SHOP), ("Procfile", "web: java -jar target/shop-1.0.jar\n")];
    let place = place("java", &files);
    let up = place.up();
    assert_eq!(up.page("/"), "hello");
    up.stop();
    let kept = tree(&place);
    assert!(kept.join("target/shop-1.0.jar").is_file() && !kept.join("repository").exists());

    place.write("src/main/java/Shop.java", SHOP.replace("HttpServer server", "Lost server"));
    place.dozen(&["build"]).coded(1).has(&[
        "Java app detected",
        "$ mvn -B -DskipTests clean install",
        "cannot find symbol",
        "Correct what Java ",
    ]);
    place.write("system.properties", "java.runtime.version=99\n");
    place.dozen(&["build"]).coded(1).has(&["the app asks for Java 99 (system.properties:1)", "Found:", "default-jdk-headless"]);
}
